"""From a member and candidates to checked columns: no Python per row on the numeric path."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limaml_serving import wire
from limaml_serving.errors import RequestError
from tfrec_limaml.schema import Feature, encode_task_key

#: A checked column: its number of rows (1 or N), and their bytes as they travel. Numbers are little-endian, row after row;
#: texts are the fields ``string_val`` of a `TensorProto`. Either way, columns are put together by putting their bytes together.
Column = tuple[int, bytes]
# How a number travels: its type in arrays; the types of a single one that needs no mending, and how that one becomes bytes.
_NUMBERS: dict[str, tuple[np.dtype[Any], frozenset[type], Callable[[Any], bytes]]] = {
    "int64": (np.dtype("<i8"), frozenset({int, bool, np.int64}), struct.Struct("<q").pack),
    "float32": (np.dtype("<f4"), frozenset({float, int, np.float32, np.float64}), struct.Struct("<f").pack),
}

# Types that have a length and yet are one value.
_SINGLE = frozenset({str, bytes, np.str_, np.bytes_})
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
        columns: One for each of the model's features, in their order: 1 row (the member's) or N (the candidates').
        keys: The task keys under each of the model's task definitions, its records' own first.
        filled: Features with values that the schema's filler replaced.
    """

    count: int
    columns: Sequence[Column]
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
        self._floats = tuple(index for index, feature in enumerate(features) if feature.dtype == "float32")
        self._key_columns = tuple(map(tuple, key_columns))
        self._names = frozenset((*(name for names in key_columns for name in names), *(feature.name for feature in features)))

    def example(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A member and two candidates with a made-up value of the right type for every name."""
        first, *nested = self._key_columns
        of_candidates = {name for names in nested for name in names}.difference(first)
        member: dict[str, Any] = dict.fromkeys(first, "1")
        candidate: dict[str, Any] = {}
        for feature in [reader.feature for reader in self._readers]:
            of_member = feature.name in first or (feature.role == "meta" and feature.name not in of_candidates)
            (member if of_member else candidate)[feature.name] = _made_up(feature)
        return member, [candidate, dict(candidate)]

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
            return Rows(count=0, columns=(), keys=(), filled=())
        if not member.keys().isdisjoint(given) and (twice := member.keys() & given.keys() & self._names):
            raise RequestError(f"{sorted(twice)[0]!r} is given for the member and for the candidates: give it once")
        # Hardly ever is a value not finite: all are looked at together, and one by one only if that finds something.
        columns, filled = self._columns(member, given, count, False)
        if not _all_finite([columns[index][1] for index in self._floats]):
            columns, filled = self._columns(member, given, count, True)
        keys = tuple([_task_keys(names, member, given, count) for names in self._key_columns])
        return Rows(count=count, columns=columns, keys=keys, filled=tuple(filled))

    def _columns(self, member: Mapping[str, Any], given: Mapping[str, Any], count: int, closely: bool) -> tuple[list[Column], list[str]]:
        columns: list[Column] = []
        filled: list[str] = []
        for reader in self._readers:
            name = reader.name
            if name in given:
                columns.append(reader.of_candidates(given[name], count, closely, filled))
            elif name in member:
                columns.append(reader.of_member(member[name], closely, filled))
            else:
                columns.append(reader.absent(filled))
        return columns, filled


class _FeatureReader:
    """Reads one feature's values; the usual ones take the short way through each method. A feature with filled values is noted."""

    def __init__(self, feature: Feature) -> None:
        self.name = feature.name
        self.feature = feature
        self._tail = () if feature.width == 1 else (feature.width,)
        if feature.dtype == "string":
            self._dtype = None
            self._filler = _texts([str(feature.filler)])
            return
        self._dtype, types, self._pack = _NUMBERS[feature.dtype]
        self._types = frozenset() if self._tail else types
        self._filler = np.full(feature.width, feature.filler, self._dtype).tobytes()

    def of_candidates(self, values: Any, count: int, closely: bool, filled: list[str]) -> Column:
        """The column of N values; whether they are finite is only certain if looked at closely."""
        if self._dtype is None:
            return count, _strings(self.feature, values, filled)
        shape = (count, *self._tail)
        if not closely and type(values) is np.ndarray and values.dtype == self._dtype and values.shape == shape:
            return count, values.tobytes()
        return count, _numbers(self.feature, values, shape, filled)

    def of_member(self, value: Any, closely: bool, filled: list[str]) -> Column:
        """The column of one value; likewise."""
        if self._dtype is None:
            return 1, _strings(self.feature, (value,), filled)
        if not closely and type(value) in self._types:
            try:
                return 1, self._pack(value)
            except (struct.error, OverflowError):
                pass  # too large for its type: told, or filled, below
        return 1, _numbers(self.feature, (value,), (1, *self._tail), filled)

    def absent(self, filled: list[str]) -> Column:
        """The filler's column of one row."""
        if self.feature.on_invalid != "fill":
            raise RequestError(f"feature {self.name!r} is missing: give it for the member or for the candidates")
        filled.append(self.name)
        return 1, self._filler


def _made_up(feature: Feature) -> Any:
    if feature.dtype == "string":
        return "text"
    value = 1 if feature.dtype == "int64" else 1.0
    return value if feature.width == 1 else [value] * feature.width


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
    if _SINGLE.isdisjoint(map(type, columns.values())):
        try:
            lengths = set(map(len, columns.values()))
        except TypeError:
            lengths = set()
        if len(lengths) == 1:
            return lengths.pop()
    scalars = [name for name, values in columns.items() if _is_single(values)]
    if scalars:
        raise RequestError(f"every column of candidates needs one value per candidate, received single values for {scalars}")
    if columns:
        given = {name: len(values) for name, values in columns.items()}
        raise RequestError(f"the columns of candidates must have equal lengths, received {given}")
    return 0


def _is_single(values: Any) -> bool:
    return isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0 or not hasattr(values, "__len__")


def _numbers(feature: Feature, values: Any, shape: tuple[int, ...], filled: list[str]) -> bytes:
    array, invalid = _integers(feature, values) if feature.dtype == "int64" else _floats(feature, values)
    if array.shape != shape:
        raise RequestError(f"feature {feature.name!r} needs the shape {list(shape)}, received {list(array.shape)}")
    if invalid.any():
        array[invalid] = _filler(feature, "a missing, NaN or infinite value")
        filled.append(feature.name)
    return array.tobytes()


def _strings(feature: Feature, values: Any, filled: list[str]) -> bytes:
    items = values.tolist() if hasattr(values, "tolist") else values
    try:
        return _texts(items)
    except (TypeError, UnicodeDecodeError):
        pass  # not all of them are text: look at each
    except UnicodeEncodeError as error:
        raise RequestError(f"feature {feature.name!r} holds text that is not valid Unicode: {error}") from error
    strange = [item for item in items if not isinstance(item, str | bytes | int | float | np.generic | None)]
    if strange:
        raise RequestError(f"feature {feature.name!r} needs text (string), received {_shown(strange[0])}")
    invalid = [item is None or (isinstance(item, float) and item != item) for item in items]
    filler = str(_filler(feature, "a missing value")).encode() if any(invalid) else b""
    out = [filler if bad else item if isinstance(item, bytes) else str(item).encode() for item, bad in zip(items, invalid, strict=True)]
    if any(invalid):
        filled.append(feature.name)
    content: bytes = wire.TensorProto(string_val=out).SerializeToString()
    return content


def _all_finite(floats: Sequence[bytes]) -> bool:
    """Whether all are finite; a false alarm is possible, where values are so large that their squares are not."""
    values = np.frombuffer(b"".join(floats), "<f4")
    return math.isfinite(np.vdot(values, values))


def _texts(items: Sequence[str]) -> bytes:
    content: bytes = wire.Texts(string_val=items).SerializeToString()
    return content


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
            values = tuple([member[name] for name in names])
            hash(values)  # as text and numbers can be
            return TaskKeys((_task_key(values),), _ONE_KEY)
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
    if None in values:
        return None
    return encode_task_key([value.decode() if isinstance(value, bytes) else value for value in values])


def _shown(values: Any) -> str:
    text = repr(values.tolist() if hasattr(values, "tolist") else values)
    return text if len(text) <= 80 else text[:77] + "..."
