"""From a member and candidates to checked columns: no Python per row on the numeric path."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limaml_serving.errors import RequestError
from tfrec_limaml.schema import Feature, encode_task_key

#: A checked column of 1 or N rows, as it travels: numbers as little-endian bytes row after row, strings one by one.
Column = bytes | list[bytes]
# A single number that needs no mending: its types, and its largest magnitude.
_NUMBERS: dict[str, tuple[frozenset[type], float]] = {
    "int64": (frozenset({int, bool, np.int64}), 2**63 - 1),
    "float32": (frozenset({float, int, np.float32, np.float64}), float(np.finfo(np.float32).max)),
}

_ONE_KEY = np.zeros(1, np.int64)
_ONE_KEY.flags.writeable = False

Candidates = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class TaskKeys(NamedTuple):
    """A request's task keys under one task definition.

    Attributes:
        distinct: ``None`` stands for one with a key column that is ``None``.
        position: Place in `distinct` of the one shared key, ``[1]``, or of each candidate's, ``[N]``.
    """

    distinct: tuple[str | None, ...]
    position: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """One checked request: a member and N candidates.

    Attributes:
        count: Number of candidates ``N``.
        columns: Feature to column of 1 row (the member's) or N (the candidates').
        keys: The task keys under each of the model's task definitions, its records' own first.
        filled: Features with values that the schema's filler replaced.
    """

    count: int
    columns: Mapping[str, Column]
    keys: tuple[TaskKeys, ...]
    filled: tuple[str, ...]


class RowReader:
    """Checks requests against one model's inputs; made once per model version.

    Names that the schema does not know are ignored, so that candidates may carry their own identifiers.

    Args:
        features: The model's inputs.
        key_columns: The columns of the task key, for each task definition.
    """

    def __init__(self, features: Sequence[Feature], key_columns: Sequence[Sequence[str]]) -> None:
        self._readers = tuple(_FeatureReader(feature) for feature in features)
        self._key_columns = tuple(map(tuple, key_columns))
        self._names = frozenset((*(name for names in key_columns for name in names), *(feature.name for feature in features)))

    def read(self, member: Mapping[str, Any], candidates: Candidates) -> Rows:
        """One checked request.

        Args:
            member: One value per name.
            candidates: Columns of equal length by name, or one mapping per candidate (slower: it is turned into columns).

        Raises:
            RequestError: A name is given twice or missing, columns differ in length, or a value does not fit its feature.
        """
        given, count = _as_columns(candidates)
        if count == 0:
            return Rows(count=0, columns={}, keys=(), filled=())
        if twice := member.keys() & given.keys() & self._names:
            raise RequestError(f"{sorted(twice)[0]!r} is given for the member and for the candidates: give it once")
        columns: dict[str, Column] = {}
        filled: list[str] = []
        for reader in self._readers:
            name = reader.name
            if name in given:
                column, was_filled = reader.of_candidates(given[name], count)
            elif name in member:
                column, was_filled = reader.of_member(member[name])
            else:
                column, was_filled = reader.absent(), True
            columns[name] = column
            if was_filled:
                filled.append(name)
        keys = tuple([_task_keys(names, member, given, count) for names in self._key_columns])
        return Rows(count=count, columns=columns, keys=keys, filled=tuple(filled))


class _FeatureReader:
    """Reads one feature's values; the usual ones take the short way through each method."""

    def __init__(self, feature: Feature) -> None:
        self.name = feature.name
        self._feature = feature
        self._tail = () if feature.width == 1 else (feature.width,)
        if feature.dtype == "string":
            self._dtype = None
            self._filler: Column = [str(feature.filler).encode()]
            return
        self._dtype = np.dtype("<i8" if feature.dtype == "int64" else "<f4")
        self._pack = struct.Struct("<q" if feature.dtype == "int64" else "<f").pack
        types, self._limit = _NUMBERS[feature.dtype]
        self._types = frozenset() if self._tail else types
        self._filler = np.full(feature.width, feature.filler, self._dtype).tobytes()

    def of_candidates(self, values: Any, count: int) -> tuple[Column, bool]:
        """The column of N values, and whether some were filled."""
        if self._dtype is None:
            return _strings(self._feature, values)
        shape = (count, *self._tail)
        plain = type(values) is np.ndarray and values.dtype == self._dtype and values.shape == shape
        # A sum of squares is finite only if every value is; if it is not, one may just be large, which is looked at closely.
        if plain and (self._dtype.kind == "i" or math.isfinite(np.vdot(values, values))):
            return values.tobytes(), False
        return _numbers(self._feature, values, shape)

    def of_member(self, value: Any) -> tuple[Column, bool]:
        """The column of one value, and whether it was filled."""
        if self._dtype is None:
            return _strings(self._feature, (value,))
        if type(value) in self._types and -self._limit <= value <= self._limit:
            return self._pack(value), False
        return _numbers(self._feature, (value,), (1, *self._tail))

    def absent(self) -> Column:
        """The filler's column of length 1."""
        if self._feature.on_invalid != "fill":
            raise RequestError(f"feature {self.name!r} is missing: give it for the member or for the candidates")
        return self._filler


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
    scalars = [name for name, values in columns.items() if isinstance(values, (str, bytes)) or not hasattr(values, "__len__")]
    if scalars:
        raise RequestError(f"every column of candidates needs one value per candidate, received single values for {scalars}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RequestError(f"the columns of candidates must have equal lengths, received {lengths}")
    return next(iter(lengths.values()), 0)


def _numbers(feature: Feature, values: Any, shape: tuple[int, ...]) -> tuple[Column, bool]:
    array, invalid = _integers(feature, values) if feature.dtype == "int64" else _floats(feature, values)
    if array.shape != shape:
        raise RequestError(f"feature {feature.name!r} needs the shape {list(shape)}, received {list(array.shape)}")
    if invalid.any():
        array[invalid] = _filler(feature, "a missing, NaN or infinite value")
        return array.tobytes(), True
    return array.tobytes(), False


def _strings(feature: Feature, values: Any) -> tuple[list[bytes], bool]:
    items = values.tolist() if hasattr(values, "tolist") else values
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


def _task_keys(names: Sequence[str], member: Mapping[str, Any], columns: Mapping[str, Any], count: int) -> TaskKeys:
    """One row where every key column is the member's."""
    for name in names:
        if name not in columns and name not in member:
            raise RequestError(f"the key column {name!r} is missing: give it (None for someone unknown) to look up the meta embedding")
    try:
        if columns.keys().isdisjoint(names):
            positions, index = {tuple([member[name] for name in names]): 0}, _ONE_KEY
        else:
            positions, index = _distinct([_values(columns[name]) if name in columns else [member[name]] * count for name in names], count)
    except TypeError as error:
        raise RequestError(f"the key columns {list(names)} need text or numbers ({error})") from error
    return TaskKeys(tuple([_task_key(key) for key in positions]), index)


def _distinct(lists: Sequence[Sequence[Any]], count: int) -> tuple[dict[tuple[Any, ...], int], npt.NDArray[np.int64]]:
    positions: dict[tuple[Any, ...], int] = {}
    index = np.fromiter((positions.setdefault(key, len(positions)) for key in zip(*lists, strict=True)), np.int64, count)
    return positions, index


def _values(column: Any) -> list[Any]:
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _task_key(values: Sequence[Any]) -> str | None:
    if any(value is None for value in values):
        return None
    return encode_task_key([value.decode() if isinstance(value, bytes) else value for value in values])


def _shown(values: Any) -> str:
    text = repr(values.tolist() if hasattr(values, "tolist") else values)
    return text if len(text) <= 80 else text[:77] + "..."
