"""Parses task records: many records per operation, without padding until the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec_limaml.features import Features
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.columns import Lengths
from tfrec_limaml.tasks.feature_encoder import DTYPES, FeatureEncoder


class Tasks(NamedTuple):
    """A chunk of parsed tasks.

    Attributes:
        task_key: string ``[T]``.
        query_start: int64 ``[T]``, ``-1`` if the record is not split.
        splits: int64 ``[T + 1]``: rows of task t are ``splits[t]:splits[t + 1]``.
        first: The first row of each task, int64 ``[T]``.
        counts: Rows of each task, int64 ``[T]``.
        columns: Every row's values ``[R, ...]``: raw features, ``label``, ``timestamp``, ``weight``
            and passthrough columns; and keys of other definitions, see `record_format.key_list`.
    """

    task_key: tf.Tensor
    query_start: tf.Tensor
    splits: tf.Tensor
    first: tf.Tensor
    counts: tf.Tensor
    columns: dict[str, tf.Tensor]


def parse_tasks(
    serialized: tf.Tensor, schema: Schema, other_definitions: Sequence[str] = ()
) -> Tasks:
    """Parses records.

    Args:
        serialized: string ``[T]``, see `tfrec_limaml.tasks.record_format`.
        schema: Names and types of the columns.
        other_definitions: Task definitions whose keys are also read for each row.

    Raises:
        tf.errors.InvalidArgumentError: A record is not a task record of this schema.
    """
    steps = {record_format.LABEL: tf.float32, record_format.TIMESTAMP: tf.int64}
    steps.update({name: tf.float32 for name in schema.carry})
    if schema.weight is not None:
        steps[record_format.WEIGHT] = tf.float32
    vectors = {f.name: f.width for f in schema.all_features if f.width > 1}
    steps.update({f.name: DTYPES[f.dtype] for f in schema.all_features})
    steps.update(dict.fromkeys(map(record_format.key_list, other_definitions), tf.string))
    context, ragged, _ = tf.io.parse_sequence_example(
        serialized,
        context_features={
            record_format.TASK_KEY: tf.io.FixedLenFeature([], tf.string),
            record_format.QUERY_START: tf.io.FixedLenFeature([], tf.int64),
        },
        sequence_features={
            name: tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
            for name, dtype in steps.items()
        },
    )
    query_start = context[record_format.QUERY_START]
    splits = ragged[record_format.TIMESTAMP].row_splits
    first, counts = splits[:-1], splits[1:] - splits[:-1]
    columns = {name: value.flat_values for name, value in ragged.items()}
    assertion = _check(columns, vectors, splits, counts, query_start)
    with tf.control_dependencies([assertion]):  # otherwise another operation may fail first
        splits, *values = tf.identity_n([splits, *columns.values()])
    columns = dict(zip(columns, values, strict=True))
    columns.setdefault(record_format.WEIGHT, tf.ones_like(columns[record_format.LABEL]))
    columns.update(
        {name: tf.reshape(columns[name], [-1, width]) for name, width in vectors.items()}
    )
    return Tasks(context[record_format.TASK_KEY], query_start, splits, first, counts, columns)


def _check(
    columns: Mapping[str, tf.Tensor],
    vectors: Mapping[str, int],
    splits: tf.Tensor,
    counts: tf.Tensor,
    query_start: tf.Tensor,
) -> tf.Operation:
    """An operation that fails, with the reason, if values are missing or a record is empty.

    It is a single one, because each takes time in every epoch.
    """
    sizes = Lengths.measure(columns)
    widths = tf.constant([vectors.get(name, 1) for name in sizes.names])
    defects = tf.concat(
        [
            sizes.values != widths * tf.cast(splits[-1], tf.int32),
            [tf.reduce_any(counts < 1), tf.reduce_any(query_start > counts)],
        ],
        0,
    )
    reasons = [
        f"a task record's feature list `{name}` does not hold one value per sample of this schema"
        for name in sizes.names
    ]
    reasons += [
        "a task record holds no samples",
        "a task record's query_start is after its last sample",
    ]
    reason = tf.gather(tf.constant(reasons), tf.argmax(defects, output_type=tf.int32))
    return tf.raw_ops.Assert(condition=~tf.reduce_any(defects), data=[reason])


def most_recent(tasks: Tasks, samples: int) -> Tasks:
    """The tasks with at most `samples` support rows, the most recent ones, and all query rows.

    All rows of unsplit records count as support rows.
    """
    split = tasks.query_start >= 0
    drop = tf.maximum(tf.where(split, tasks.query_start, tasks.counts) - samples, 0)
    splits, rows = tf.raw_ops.RaggedRange(
        starts=tasks.first + drop,
        limits=tasks.first + tasks.counts,
        deltas=tf.constant(1, tf.int64),
        Tsplits=tf.int64,
    )
    return Tasks(
        tasks.task_key,
        tf.where(split, tasks.query_start - drop, -1),
        splits,
        splits[:-1],
        tasks.counts - drop,
        {name: rows_of(value, rows) for name, value in tasks.columns.items()},
    )


def task_of_rows(tasks: Tasks) -> tf.Tensor:
    """The task of each row, int32 ``[R]``. `tf.repeat` would need ten times the operations."""
    ends = tf.expand_dims(tasks.first + tasks.counts, 0)
    rows = tf.expand_dims(tf.range(0, tasks.splits[-1], dtype=tf.int64), 0)
    return tf.squeeze(tf.raw_ops.UpperBound(sorted_inputs=ends, values=rows), 0)


def encode_rows(tasks: Tasks, encoder: FeatureEncoder) -> Features:
    """Encoded features ``[R, ...]`` of all rows."""
    names = [f.name for f in encoder.schema.all_features]
    return encoder({name: tasks.columns[name] for name in names})


def rows_of(column: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """A column's values at row numbers of any shape.

    This operation needs no axis, which `tf.gather` adds as one more operation to the graph.
    """
    return tf.raw_ops.Gather(params=column, indices=index)


class PaddedRows(NamedTuple):
    """Rows of tasks, padded to a rectangle.

    Attributes:
        index: Row numbers ``[T, S]``; S is the largest number of rows of a task, at least 1.
        real: Whether an element is a row of its task (True) or padding ``[T, S]``.
    """

    index: tf.Tensor
    real: tf.Tensor

    @classmethod
    def from_counts(cls, first: tf.Tensor, counts: tf.Tensor, padding: tf.Tensor) -> PaddedRows:
        """The rows ``first[t] .. first[t] + counts[t]``, int64 ``[T]``.

        The padding repeats `padding` ``[T]``, a row of the same task, with weight 0. An invalid
        value in it affects no other task.
        """
        last = tf.constant(-1)
        position = tf.range(0, tf.maximum(tf.reduce_max(counts, 0), 1), dtype=tf.int64)
        real = position < tf.expand_dims(counts, last)
        rows = tf.expand_dims(first, last) + position
        return cls(tf.where(real, rows, tf.expand_dims(padding, last)), real)

    def weights(self, weight: tf.Tensor) -> tf.Tensor:
        """The rows' weights ``[T, S]``, 0 for padding.

        Args:
            weight: Weights of all rows ``[R]``.
        """
        return tf.where(self.real, rows_of(weight, self.index), 0.0)

    def ages(self, timestamp: tf.Tensor) -> tf.Tensor:
        """Days ``[T, S]`` from each row to the newest one of its task, 0 for padding.

        Args:
            timestamp: Milliseconds of all rows ``[R]``.
        """
        times = rows_of(timestamp, self.index)
        newest = tf.reduce_max(tf.where(self.real, times, times.dtype.min), -1, keepdims=True)
        return tf.cast(tf.where(self.real, newest - times, 0), tf.float32) / DAY_MS
