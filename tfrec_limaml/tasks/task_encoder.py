"""Serialises many task records at once, from columns."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Array, Integers
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.record_format import (
    LABEL,
    QUERY_START,
    SAMPLE_COUNT,
    TASK_KEY,
    TIMESTAMP,
    WEIGHT,
    key_list,
)
from tfrec_limaml.wire_format import LONGEST, varint, varints

# Tags of the protobuf wire format: field 1 and 2 with a length, and the three kinds of
# tf.train.Feature.
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"

#: Values of a column: plain Python, NumPy, or Arrow.
ColumnLike: TypeAlias = Sequence[Any] | Array | pa.Array | pa.ChunkedArray
#: A column's cells as bytes, one after another, and where each begins (one more entry than cells).
_Cells: TypeAlias = tuple[pa.Buffer, Integers]
_CACHED = 2**16  # cached first bytes of fields: sizes repeat from task to task


class TaskEncoder:
    """Serialises many tasks from columns: the bytes of `encode_task`, about 100 times faster.

    Every cell is encoded once, column by column; a task is then one slice per column, and Arrow
    joins the slices of all tasks. Tasks of different calls may overlap: the same row can be a
    training row of one record and a support row of another.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Mapping[str, ColumnLike],
        other_definitions: Sequence[str] = (),
    ) -> None:
        """Prepares the columns.

        Args:
            schema: Names and types.
            columns: Values of all rows ``[n]`` (``[n, width]`` for vectors) by feature name, and
                under `LABEL`, `TIMESTAMP`, `WEIGHT` and the passthrough columns' names as in
                `encode_task`. Text as a dictionary array is the fastest.
            other_definitions: See `encode_task`.
        """
        self._kinds = kinds = {feature.name: feature.dtype for feature in schema.all_features}
        floats = (LABEL, *((WEIGHT,) if schema.weight is not None else ()), *schema.carry)
        kinds.update(dict.fromkeys(floats, "float32"))
        kinds[TIMESTAMP] = "int64"
        kinds.update(dict.fromkeys(map(key_list, other_definitions), "string"))
        names = sorted(kinds, key=str.encode)  # maps are written in the order of their keys' bytes
        self._columns = {name: self._cells(name, columns[name]) for name in names}

    def with_columns(self, columns: Mapping[str, ColumnLike]) -> TaskEncoder:
        """The same rows with other values in some columns."""
        other = copy.copy(self)
        cells = {name: self._cells(name, column) for name, column in columns.items()}
        other._columns = self._columns | cells
        return other

    def _cells(self, name: str, column: ColumnLike) -> _Cells:
        return _CELL_ENCODERS[self._kinds[name]](column)

    def encode(self, task_key: str, start: int, stop: int, query_start: int = -1) -> bytes:
        """Serialises rows ``start`` to ``stop`` as one task; see `encode_task`."""
        records = self.encode_tasks(
            pa.array([task_key]), *(np.array([number]) for number in (start, stop, query_start))
        )
        return bytes(records[0].as_py())

    def encode_tasks(
        self, task_keys: pa.Array, starts: Integers, stops: Integers, query_starts: Integers
    ) -> pa.LargeBinaryArray:
        """Serialises many tasks, each as `encode` does.

        Args:
            task_keys: Identifiers ``[t]``, text.
            starts, stops: Rows of each task ``[t]``: in ascending order, without overlap.
            query_starts: Index of each task's first query row ``[t]``, or ``-1``.

        Returns:
            Serialized `tf.train.SequenceExample` ``[t]``.
        """
        if not len(task_keys):
            return pa.array([], pa.large_binary())
        keys = task_keys.cast(pa.large_binary())
        context = [
            _map_distinct(query_starts, lambda start: _entry(QUERY_START, _integer_feature(start))),
            _map_distinct(
                stops - starts, lambda count: _entry(SAMPLE_COUNT, _integer_feature(count))
            ),
            _map_distinct(_lengths(keys), _key_opening),
            keys,
        ]
        lists = []
        for name, (cells, begins) in self._columns.items():
            first, last = begins[starts], begins[stops]
            opening = functools.partial(_list_opening, _field(_FIELD_1, name.encode()))
            lists.append(_map_distinct(last - first, opening))
            lists.append(_slices(cells, first, last))
        parts = []
        for tag, content in ((_FIELD_1, context), (_FIELD_2, lists)):
            size = np.stack([_lengths(part) for part in content]).sum(axis=0)
            parts += [_map_distinct(size, functools.partial(_opening, tag)), *content]
        return _join(*parts)


def _join(*parts: pa.Array) -> pa.LargeBinaryArray:
    """Joins the parts element by element."""
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def _map_distinct(numbers: Integers, make: Callable[[int], bytes]) -> pa.Array:
    """``make(number)`` for every number. `make` is called once for each distinct number."""
    distinct = pa.array(numbers).dictionary_encode()
    return pa.array(
        [make(number) for number in distinct.dictionary.to_pylist()], pa.large_binary()
    ).take(distinct.indices)


def _lengths(values: pa.Array) -> Integers:
    return np.asarray(pc.binary_length(values).to_numpy(zero_copy_only=False), np.int64)


def _slices(cells: pa.Buffer, first: Integers, last: Integers) -> pa.Array:
    """The bytes of `cells` from each `first` to its `last`.

    In the array of all edges, slices and the gaps between them alternate; the slices are returned.
    """
    edges = np.stack([first, last], axis=1).ravel()
    slices = pa.Array.from_buffers(
        pa.large_binary(), len(edges) - 1, [None, pa.py_buffer(edges), cells]
    )
    return slices.take(pa.array(np.arange(0, len(edges), 2)))


@functools.lru_cache(maxsize=_CACHED)
def _opening(tag: bytes, size: int) -> bytes:
    """The bytes before the content of a field."""
    return tag + varint(size)


@functools.lru_cache(maxsize=_CACHED)
def _list_opening(name: bytes, size: int) -> bytes:
    """The bytes before the cells of a feature list."""
    inner = name + _opening(_FIELD_2, size)
    return _opening(_FIELD_1, len(inner) + size) + inner


def _key_opening(size: int) -> bytes:
    """The bytes before a task key."""
    field = _entry(TASK_KEY, _field(_BYTES_LIST, _field(_FIELD_1, bytes(size))))
    return field[: len(field) - size]


def _entry(name: str, feature: bytes) -> bytes:
    return _field(_FIELD_1, _field(_FIELD_1, name.encode()) + _field(_FIELD_2, feature))


def _field(tag: bytes, content: bytes) -> bytes:
    return _opening(tag, len(content)) + content


def _integer_feature(value: int) -> bytes:
    return _field(_INT64_LIST, _field(_FIELD_1, varint(value % 2**64)))


def _text_cells(column: ColumnLike) -> _Cells:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    elif not isinstance(column, pa.Array):
        column = pa.array(
            [value if isinstance(value, bytes) else str(value).encode() for value in column],
            pa.binary(),
        )
    if pa.types.is_dictionary(column.type) and len(column.dictionary) > len(column):
        column = column.dictionary_decode()  # a slice of a long column
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    distinct = column.dictionary.cast(pa.large_binary())
    return _take(_join(_map_distinct(_lengths(distinct), _text_opening), distinct), column.indices)


def _text_opening(size: int) -> bytes:
    """The bytes before the text of a cell."""
    field = _field(_FIELD_1, _field(_BYTES_LIST, _field(_FIELD_1, bytes(size))))
    return field[: len(field) - size]


def _take(cells: pa.Array, indices: pa.Array) -> _Cells:
    """The cells at the indices, one after another."""
    result = cells.take(indices)
    return result.buffers()[2] or pa.py_buffer(b""), np.concatenate(
        [[0], np.cumsum(_lengths(result))]
    )


def _float_cells(column: ColumnLike) -> _Cells:
    values = _matrix(column, "<f4")
    width = 4 * values.shape[1]
    prefix = _field(_FIELD_1, _field(_FLOAT_LIST, _field(_FIELD_1, bytes(width))))[:-width]
    size = len(prefix) + width
    cells = np.empty((len(values), size), np.uint8)
    cells[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    cells[:, len(prefix) :] = np.ascontiguousarray(values).view(np.uint8)
    return pa.py_buffer(cells), np.arange(len(values) + 1) * size


def _integer_cells(column: ColumnLike) -> _Cells:
    values = _matrix(column, "<i8")
    if values.shape[1] > 1:
        packed = [b"".join(varint(int(value) % 2**64) for value in row) for row in values]
        fields = [_field(_FIELD_1, _field(_INT64_LIST, _field(_FIELD_1, row))) for row in packed]
        return _take(pa.array(fields, pa.large_binary()), pa.array(np.arange(len(fields))))
    content, lengths = varints(np.ascontiguousarray(values[:, 0]))
    # Six bytes before each varint (tag and size of step, kind and values), then the varint; the
    # rest of the row is dropped.
    rows = np.empty((len(values), 6 + LONGEST), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = _FIELD_1[0], lengths + 4, _INT64_LIST[0]
    rows[:, 3], rows[:, 4], rows[:, 5] = lengths + 2, _FIELD_1[0], lengths
    rows[:, 6:] = content
    cells = rows[np.arange(6 + LONGEST) < lengths[:, None] + 6]
    return pa.py_buffer(cells), np.concatenate([[0], np.cumsum(lengths + 6)])


_CELL_ENCODERS: dict[str, Callable[[Any], _Cells]] = {
    "string": _text_cells,
    "float32": _float_cells,
    "int64": _integer_cells,
}


def _matrix(column: ColumnLike, dtype: str) -> Array:
    """Numbers of any column as ``[n, width]``."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.Array):
        flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        values = flat.to_numpy(zero_copy_only=False)
        return (
            np.asarray(values, dtype).reshape(len(column), -1)
            if len(column)
            else np.empty((0, 1), dtype)
        )
    values = np.asarray(column, dtype=dtype)
    return values.reshape(len(values), -1) if len(values) else np.empty((0, 1), dtype)
