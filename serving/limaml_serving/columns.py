"""From a member and candidates to checked columns: no Python per row on the numeric path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml_serving.errors import RequestError
from tfrec_limaml.schema import Feature, encode_task_key

#: A checked column of 1 or N rows: numbers as an array ``[n]`` or ``[n, width]``, strings as a list of bytes.
Column = npt.NDArray[Any] | list[bytes]
# NumPy kind, type on the wire, Python type and largest magnitude of a number
_KINDS: dict[str, tuple[str, str, type[float], float]] = {
    "int64": ("i", "<i8", int, 2**63 - 1),
    "float32": ("f", "<f4", float, float(np.finfo(np.float32).max)),
}

Candidates = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """One checked request: a member and N candidates.

    Attributes:
        count: Number of candidates ``N``.
        columns: Feature to column of length 1 (the member's) or N (the candidates').
        keys: Distinct task keys; ``None`` for one with a key column that is ``None``.
        key_index: Position in `keys` of the one shared key, ``[1]``, or of each candidate's, ``[N]``.
        filled: Features with values that the schema's filler replaced.
    """

    count: int
    columns: Mapping[str, Column]
    keys: tuple[str | None, ...]
    key_index: npt.NDArray[np.int64]
    filled: tuple[str, ...]


def read_rows(features: Sequence[Feature], key_columns: Sequence[str], member: Mapping[str, Any], candidates: Candidates) -> Rows:
    """Checks one request against the schema's features.

    Names that the schema does not know are ignored, so that candidates may carry their own identifiers.

    Args:
        features: The model's inputs.
        key_columns: The columns of the task key.
        member: One value per name.
        candidates: Columns of equal length by name, or one mapping per candidate (slower: it is turned into columns).

    Raises:
        RequestError: A name is given twice or missing, columns differ in length, or a value does not fit its feature.
    """
    columns, count = _as_columns(candidates)
    if count == 0:
        return Rows(count=0, columns={}, keys=(), key_index=np.zeros(0, np.int64), filled=())
    checked: dict[str, Column] = {}
    filled = []
    twice = member.keys() & columns.keys() & {*key_columns, *(feature.name for feature in features)}
    if twice:
        raise RequestError(f"{sorted(twice)[0]!r} is given for the member and for the candidates: give it once")
    for feature in features:
        name = feature.name
        if name in columns:
            checked[name], was_filled = _read(feature, columns[name], count)
        elif name in member:
            checked[name], was_filled = _read(feature, (member[name],), 1)
        else:
            checked[name], was_filled = _filler_column(feature), True
        if was_filled:
            filled.append(name)
    keys, key_index = _task_keys(key_columns, member, columns, count)
    return Rows(count=count, columns=checked, keys=keys, key_index=key_index, filled=tuple(filled))


def _as_columns(candidates: Candidates) -> tuple[Mapping[str, Any], int]:
    """Columns and the number of candidates."""
    if isinstance(candidates, Mapping):
        return candidates, _common_length(candidates)
    if isinstance(candidates, str | bytes) or not all(isinstance(row, Mapping) for row in candidates):
        raise RequestError(
            "candidates must be a mapping from column names to columns, or a list with one mapping per candidate, "
            f"received {_shown(candidates)}"
        )
    names: dict[str, None] = {}
    for row in candidates:
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in candidates] for name in names}, len(candidates)


def _common_length(columns: Mapping[str, Any]) -> int:
    scalars = [name for name, values in columns.items() if isinstance(values, str | bytes) or not hasattr(values, "__len__")]
    if scalars:
        raise RequestError(f"every column of candidates needs one value per candidate, received single values for {scalars}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RequestError(f"the columns of candidates must have equal lengths, received {lengths}")
    return next(iter(lengths.values()), 0)


def _read(feature: Feature, values: Any, length: int) -> tuple[Column, bool]:
    if feature.dtype == "string":
        return _strings(feature, values)
    array, invalid = _plain(feature, values), None
    if array is None:
        array, invalid = _integers(feature, values) if feature.dtype == "int64" else _floats(feature, values)
    expected = (length,) if feature.width == 1 else (length, feature.width)
    if array.shape != expected:
        raise RequestError(f"feature {feature.name!r} needs the shape {list(expected)}, received {list(array.shape)}")
    if invalid is not None and invalid.any():
        array[invalid] = _filler(feature, "a missing, NaN or infinite value")
        return array, True
    return array, False


def _plain(feature: Feature, values: Any) -> npt.NDArray[Any] | None:
    """The usual case, and the fast one: an array, or a single number, of the feature's own kind with nothing to mend."""
    kind, dtype, python, limit = _KINDS[feature.dtype]
    if type(values) is np.ndarray and values.dtype.kind == kind:
        if kind == "f" and not np.isfinite(values).all():
            return None
        return np.asarray(values, dtype) if values.itemsize <= int(dtype[-1]) else None
    if len(values) == 1 and isinstance(values[0], python) and -limit <= values[0] <= limit:
        return np.array(values, dtype)
    return None


def _strings(feature: Feature, values: Any) -> tuple[list[bytes], bool]:
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    try:
        return list(map(str.encode, items)), False
    except TypeError:
        pass  # not all of them are text: look at each
    except UnicodeEncodeError as error:
        raise RequestError(f"feature {feature.name!r} holds text that is not valid Unicode: {error}") from error
    strange = [item for item in items if not isinstance(item, str | bytes | int | float | np.generic | None)]
    if strange:
        raise RequestError(f"feature {feature.name!r} needs text (string), received {_shown(strange[0])}")
    invalid = [item is None or (isinstance(item, float) and item != item) for item in items]
    filler = str(_filler(feature, "a missing value")).encode() if any(invalid) else b""
    out = [filler if bad else item if isinstance(item, bytes) else str(item).encode() for item, bad in zip(items, invalid, strict=True)]
    return out, any(invalid)


def _floats(feature: Feature, values: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    array = _array(feature, values)
    if array.dtype.kind == "O":
        array = _array(feature, np.where(_is_none(array), np.nan, array).tolist())
    if array.dtype.kind not in "fiub":
        raise RequestError(f"feature {feature.name!r} needs numbers (float32), received {_shown(values)}")
    with np.errstate(over="ignore"):
        array = array.astype("<f4")
    return array, ~np.isfinite(array)


def _integers(feature: Feature, values: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    array = _array(feature, values)
    invalid = np.zeros(array.shape, np.bool_)
    if array.dtype.kind == "O":
        invalid = _is_none(array)
    elif array.dtype.kind == "f":
        invalid = ~np.isfinite(array)
    if invalid.any():
        array = _array(feature, np.where(invalid, 0, array).tolist())
    with np.errstate(invalid="ignore"):
        whole = array.astype("<i8") if array.dtype.kind in "fiub" else None
    if whole is None or np.any(array != whole):
        raise RequestError(f"feature {feature.name!r} needs whole numbers (int64), received {_shown(values)}")
    return whole, invalid


def _is_none(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.fromiter((value is None for value in array.flat), np.bool_, array.size).reshape(array.shape)


def _array(feature: Feature, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise RequestError(f"feature {feature.name!r} needs values of one length, received {_shown(values)}") from error


def _filler(feature: Feature, what: str) -> float | int | str:
    if feature.on_invalid != "fill":
        raise RequestError(f"feature {feature.name!r} has {what}, and the schema (on_invalid: {feature.on_invalid}) gives no filler for it")
    return feature.filler


def _filler_column(feature: Feature) -> Column:
    if feature.on_invalid != "fill":
        raise RequestError(f"feature {feature.name!r} is missing: give it for the member or for the candidates")
    if feature.dtype == "string":
        return [str(feature.filler).encode()]
    return np.full((1,) if feature.width == 1 else (1, feature.width), feature.filler, "<i8" if feature.dtype == "int64" else "<f4")


def _task_keys(
    names: Sequence[str], member: Mapping[str, Any], columns: Mapping[str, Any], count: int
) -> tuple[tuple[str | None, ...], npt.NDArray[np.int64]]:
    """The distinct task keys and the position of each row's key; one row where every key column is the member's."""
    lists = []
    for name in names:
        if name not in columns and name not in member:
            raise RequestError(f"the key column {name!r} is missing: give it (None for someone unknown) to look up the meta embedding")
        values = columns[name] if name in columns else [member[name]]
        lists.append(values.tolist() if hasattr(values, "tolist") else list(values))
    length = count if any(name in columns for name in names) else 1
    tuples = zip(*(values if len(values) == length else values * length for values in lists), strict=True)
    positions: dict[tuple[Any, ...], int] = {}
    try:
        index = np.fromiter((positions.setdefault(key, len(positions)) for key in tuples), np.int64, length)
    except TypeError as error:
        raise RequestError(f"the key columns {list(names)} need text or numbers ({error})") from error
    return tuple(_task_key(key) for key in positions), index


def _task_key(values: Sequence[Any]) -> str | None:
    if any(value is None for value in values):
        return None
    return encode_task_key([value.decode() if isinstance(value, bytes) else value for value in values])


def _shown(values: Any) -> str:
    text = repr(values.tolist() if hasattr(values, "tolist") else values)
    return text if len(text) <= 80 else text[:77] + "..."
