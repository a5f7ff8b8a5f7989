"""Parses task records: many records per operation, without padding until the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec_limaml.features import Features
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import DTYPES, FeatureEncoder

#: Milliseconds of a day.
DAY_MS = 86_400_000.0


class Tasks(NamedTuple):
    """A chunk of parsed tasks.

    Attributes:
        task_key: string ``[T]``.
        query_start: int64 ``[T]``, ``-1`` where the record is not split.
        splits: int64 ``[T + 1]``: rows of task t are ``splits[t]:splits[t + 1]``.
        columns: Every row's values ``[R, ...]``: raw features, ``label``, ``timestamp``, ``weight``
            and passthrough columns; and keys of other definitions, see `record_format.key_list`.
    """

    task_key: tf.Tensor
    query_start: tf.Tensor
    splits: tf.Tensor
    columns: dict[str, tf.Tensor]

    @property
    def counts(self) -> tf.Tensor:
        """Rows of each task, int64 ``[T]``."""
        return self.splits[1:] - self.splits[:-1]


def parse_tasks(serialized: tf.Tensor, schema: Schema, beside: Sequence[str] = ()) -> Tasks:
    """Parses records.

    Args:
        serialized: string ``[T]``, see `tfrec_limaml.tasks.record_format`.
        schema: Names and types of the columns.
        beside: Task definitions whose keys are also read for each row.

    Raises:
        tf.errors.InvalidArgumentError: A record is not a task record of this schema.
    """
    steps = {record_format.LABEL: tf.float32, record_format.TIMESTAMP: tf.int64}
    steps.update({name: tf.float32 for name in schema.carry})
    if schema.weight is not None:
        steps[record_format.WEIGHT] = tf.float32
    vectors = {f.name: f.width for f in schema.all_features if f.width > 1}
    steps.update({f.name: DTYPES[f.dtype] for f in schema.all_features})
    steps.update(dict.fromkeys(map(record_format.key_list, beside), tf.string))
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
    splits = ragged[record_format.TIMESTAMP].row_splits
    columns = {name: value.flat_values for name, value in ragged.items()}
    columns.setdefault(record_format.WEIGHT, tf.ones_like(columns[record_format.LABEL]))
    tasks = Tasks(
        context[record_format.TASK_KEY], context[record_format.QUERY_START], splits, columns
    )
    with tf.control_dependencies(
        [_check(tasks, vectors)]
    ):  # otherwise another operation may fail first
        splits, *values = tf.identity_n([splits, *columns.values()])
    columns = dict(zip(columns, values, strict=True))
    columns.update(
        {name: tf.reshape(columns[name], [-1, width]) for name, width in vectors.items()}
    )
    return tasks._replace(splits=splits, columns=columns)


def _check(tasks: Tasks, vectors: Mapping[str, int]) -> tf.Operation:
    """Fails with the reason if values are missing or a record is empty. It is one operation, since
    each costs time in every epoch.
    """
    sizes = tf.stack([tf.size(value, tf.int64) for value in tasks.columns.values()])
    widths = tf.constant([vectors.get(name, 1) for name in tasks.columns], tf.int64)
    wrong = tf.concat(
        [
            sizes != widths * tasks.splits[-1],
            [tf.reduce_any(tasks.counts < 1), tf.reduce_any(tasks.query_start > tasks.counts)],
        ],
        0,
    )
    reasons = [
        f"a task record's feature list `{name}` does not hold one value per sample of this schema"
        for name in tasks.columns
    ]
    reasons += [
        "a task record holds no samples",
        "a task record's query_start is after its last sample",
    ]
    reason = tf.gather(tf.constant(reasons), tf.argmax(wrong, output_type=tf.int32))
    return tf.raw_ops.Assert(condition=~tf.reduce_any(wrong), data=[reason])


def most_recent(tasks: Tasks, samples: int) -> Tasks:
    """The tasks with only the last rows before their query rows (of unsplit records: of all rows),
    up to this number, and all query rows.
    """
    split = tasks.query_start >= 0
    drop = tf.maximum(tf.where(split, tasks.query_start, tasks.counts) - samples, 0)
    position = tf.range(tasks.splits[-1]) - tf.repeat(tasks.splits[:-1], tasks.counts)
    kept = position >= tf.repeat(drop, tasks.counts)
    return Tasks(
        tasks.task_key,
        tf.where(split, tasks.query_start - drop, -1),
        tf.concat([[0], tf.cumsum(tasks.counts - drop)], 0),
        {name: tf.boolean_mask(value, kept) for name, value in tasks.columns.items()},
    )


def encode_rows(tasks: Tasks, encoder: FeatureEncoder) -> Features:
    """Encoded features ``[R, ...]`` of all rows."""
    names = [f.name for f in encoder.schema.all_features]
    return encoder({name: tasks.columns[name] for name in names})


def padding_index(first: tf.Tensor, counts: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """Row numbers ``[T, S]`` of ``first[t] .. first[t] + counts[t]``; S is the largest count, at
    least 1.

    They are followed by `padding` ``[T]``, a row of the same task, which gets weight 0; an invalid
    value in it stays within its task.
    """
    position = tf.range(tf.maximum(tf.reduce_max(counts), 1))[None]
    return tf.where(position < counts[:, None], first[:, None] + position, padding[:, None])


def sample_weights(weight: tf.Tensor, index: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Weights ``[T, S]`` of the rows at `index`, 0 for padding."""
    real = tf.range(tf.shape(index, counts.dtype)[1])[None] < counts[:, None]
    return tf.where(real, tf.gather(weight, index), 0.0)


def row_ages(timestamp: tf.Tensor, index: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Days ``[T, S]`` from each of the rows at `index` to the newest real one of its task, 0 for
    padding.

    Args:
        timestamp: Milliseconds of all rows ``[R]``.
        index: See `padding_index`.
        counts: Real rows of each task ``[T]``.
    """
    times = tf.gather(timestamp, index)
    real = tf.range(tf.shape(index, counts.dtype)[1])[None] < counts[:, None]
    newest = tf.reduce_max(tf.where(real, times, times.dtype.min), -1, keepdims=True)
    return tf.cast(tf.where(real, newest - times, 0), tf.float32) / DAY_MS
