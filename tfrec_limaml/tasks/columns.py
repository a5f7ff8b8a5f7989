"""Raw columns, singly or concatenated.

The time of a small request depends on the number of operations, so one operation handles many
columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf


class Columns:
    """Columns of the same rows.

    Args:
        values: ``[N]`` or ``[N, width]`` by name.
    """

    def __init__(self, values: Mapping[str, tf.Tensor]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> tf.Tensor:
        return self._values[name]

    @property
    def rows(self) -> tf.Tensor:
        """Number of rows, a scalar; 1 without columns."""
        first = next(iter(self._values.values()), None)
        return tf.constant(1) if first is None else tf.shape(first)[0]

    def side_by_side(self, names: Sequence[str], dtype: tf.DType) -> tf.Tensor:
        """The columns concatenated, ``[N, sum of widths]``."""
        parts = []
        for single, group in itertools.groupby(names, lambda n: self[n].shape.rank == 1):
            values = [_cast(self[name], dtype) for name in group]
            parts += [tf.stack(values, -1)] if single else values
        return _concatenate(parts)


class RepeatedColumns(Columns):
    """Columns, some of which have one row that applies to all rows.

    Args:
        values: ``[1 or N]`` or ``[1 or N, width]`` by name.
        lengths: Rows of each column, by name, scalars.
        rows: N, a scalar.
    """

    def __init__(self, values: Mapping[str, tf.Tensor], lengths: Lengths, rows: tf.Tensor) -> None:
        super().__init__(values)
        self._lengths = lengths
        self._rows = rows

    def __getitem__(self, name: str) -> tf.Tensor:
        return repeat_row(self._values[name], self._rows)

    @property
    def rows(self) -> tf.Tensor:
        """N."""
        return self._rows

    def side_by_side(self, names: Sequence[str], dtype: tf.DType) -> tf.Tensor:
        """The columns concatenated, ``[N, sum of widths]``."""
        parts = []
        for single, group in itertools.groupby(names, lambda n: self._values[n].shape.rank == 1):
            group_names = list(group)
            if single and len(group_names) > 1:
                parts.append(self._gather(group_names, dtype))
            else:
                parts += [_matrix(self[name], dtype) for name in group_names]
        return _concatenate(parts)

    def _gather(self, names: Sequence[str], dtype: tf.DType) -> tf.Tensor:
        """Columns ``[1 or N]`` as a matrix: one gather from all their values."""
        values = tf.concat([_cast(self._values[name], dtype) for name in names], 0)
        lengths = self._lengths.select(names)
        starts = tf.cumsum(lengths, exclusive=True)
        steps = tf.cast(lengths > 1, lengths.dtype)
        row = tf.range(self._rows)[:, None]
        return tf.gather(values, starts + row * steps)


class Lengths(NamedTuple):
    """Numbers of rows of some columns.

    Attributes:
        names: Names of the columns.
        values: Number of rows of each column, int32, in the order of `names`.
    """

    names: tuple[str, ...]
    values: tf.Tensor

    @classmethod
    def measure(cls, columns: Mapping[str, tf.Tensor]) -> Lengths:
        """The lengths of some columns."""
        by_dtype: dict[tf.DType, list[str]] = {}
        for name, value in columns.items():
            by_dtype.setdefault(value.dtype, []).append(name)
        names = [name for group in by_dtype.values() for name in group]
        shapes = [
            shape
            for group in by_dtype.values()
            for shape in tf.shape_n([columns[name] for name in group])
        ]
        firsts = [s if s.shape == (1,) else s[:1] for s in shapes]
        return cls(tuple(names), tf.concat(firsts, 0))

    def select(self, names: Sequence[str]) -> tf.Tensor:
        """Lengths of these columns, in this order."""
        return tf.gather(self.values, [self.names.index(name) for name in names])


def repeat_row(value: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """A column of one row repeated `rows` times; a column of `rows` rows unchanged."""
    return tf.broadcast_to(value, tf.concat([rows[None], value.shape[1:]], 0))


def _matrix(value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    width = 1 if value.shape.rank == 1 else value.shape[1]
    return tf.reshape(_cast(value, dtype), [-1, width])


def _cast(value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return value if value.dtype == dtype else tf.cast(value, dtype)


def _concatenate(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, -1)


class Part(NamedTuple):
    """The columns of one feature in a matrix ``[N, ...]``.

    Attributes:
        matrix: The matrix.
        start: The first column.
        width: Number of columns.
    """

    matrix: tf.Tensor
    start: int
    width: int


def parts_of(matrix: tf.Tensor, widths: Sequence[int]) -> list[Part]:
    """Adjacent parts of these widths, from the first column on."""
    starts = itertools.accumulate(widths, initial=0)
    return [Part(matrix, start, width) for start, width in zip(starts, widths, strict=False)]


def concatenate_parts(parts: Sequence[Part]) -> tf.Tensor:
    """The parts concatenated. Adjacent parts of one matrix are a single slice."""
    runs: list[Part] = []
    for part in parts:
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.matrix is part.matrix
            and last.start + last.width == part.start
        ):
            runs[-1] = last._replace(width=last.width + part.width)
        else:
            runs.append(part)
    return _concatenate(
        [
            run.matrix
            if (run.start, run.width) == (0, run.matrix.shape[1])
            else run.matrix[:, run.start : run.start + run.width]
            for run in runs
        ]
    )
