"""Batches of padded support and query sets, from a chunk of tasks whose rows are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.features import Features
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import PaddedRows, rows_of


class Chunk(NamedTuple):
    """A chunk of tasks whose rows are encoded.

    Attributes:
        task_key: string ``[T]``.
        first: The first row of each task, int64 ``[T]``.
        counts: Rows of each task, int64 ``[T]``.
        support: Length of each task's support part, int64 ``[T]``.
        order: The order in which the tasks go into batches, int32 ``[T]``.
        starts: Positions in `order` at which batches start, and the end of the last one, int32.
        columns: Columns of all rows ``[R]`` that batches need.
        features: Encoded features of all rows ``[R, ...]``.
    """

    task_key: tf.Tensor
    first: tf.Tensor
    counts: tf.Tensor
    support: tf.Tensor
    order: tf.Tensor
    starts: tf.Tensor
    columns: dict[str, tf.Tensor]
    features: Features


def support_length(
    counts: tf.Tensor, query_start: tf.Tensor, share: tf.Tensor | float
) -> tf.Tensor:
    """Length of each task's support part, int64 ``[T]``.

    It is the one in the record, or the first `share` of the task's samples.

    At least one sample remains in the query set; a single sample is a query sample.
    """
    length = tf.cast(tf.math.ceil(tf.cast(counts, tf.float32) * share - 1e-4), tf.int64)
    return tf.where(
        query_start >= 0, query_start, tf.clip_by_value(length, 0, tf.maximum(counts - 1, 0))
    )


def batch_starts(counts: tf.Tensor, batch_size: int, by_rows: bool) -> tf.Tensor:
    """Positions at which batches start among tasks with `counts` samples, and the end.

    The number of batches depends on `batch_size` only. With `by_rows` each batch ends with the task
    in which its share of the samples ends, and holds at least one task.
    """
    tasks = tf.size(counts)
    starts = tf.range(0, tasks, batch_size)
    if by_rows:
        batches = tf.size(starts)
        number = tf.range(1, batches)
        ends = tf.cumsum(counts)
        targets = tf.cast(number, tf.float64) * tf.cast(
            ends[-1] / tf.cast(batches, ends.dtype), tf.float64
        )
        indices = 1 + tf.squeeze(
            tf.raw_ops.LowerBound(
                sorted_inputs=tf.expand_dims(tf.cast(ends, tf.float64), 0),
                values=tf.expand_dims(targets, 0),
            ),
            0,
        )
        # The largest of indices[j] + (i - j) over j <= i. It increases: no batch is empty.
        steps = tf.where(number[:, None] >= number, indices - number, tf.int32.min)
        indices = tf.minimum(number + tf.reduce_max(steps, -1), tasks - batches + number)
        starts = tf.concat([[0], indices], 0)
    return tf.concat([starts, [tasks]], 0)


def once_per_batch(chunk: Chunk) -> tf.data.Dataset:
    """The same chunk once per batch, without copies, with the batch's start and end in `order`."""
    ranges = tf.data.Dataset.from_tensor_slices((chunk.starts[:-1], chunk.starts[1:]))
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(chunk).repeat(), ranges)


def padded_batch(
    chunk: Chunk, indices: tf.Tensor, support_columns: Sequence[str], query_columns: Sequence[str]
) -> dict[str, Any]:
    """The chunk's tasks at `indices` ``[T]``, as padded support and query sets.

    They have the given columns, features, weights and ages.
    """
    first, counts, support = (
        rows_of(v, indices) for v in (chunk.first, chunk.counts, chunk.support)
    )
    support_rows = PaddedRows.from_counts(first, support, first)
    query_rows = PaddedRows.from_counts(first + support, counts - support, first)
    age = support_rows.ages(chunk.columns[record_format.TIMESTAMP])
    return {
        "support": {**_samples(chunk, support_rows, support_columns), "age": age},
        "query": _samples(chunk, query_rows, query_columns),
        "task_key": rows_of(chunk.task_key, indices),
    }


def _samples(chunk: Chunk, rows: PaddedRows, names: Sequence[str]) -> dict[str, Any]:
    """Features, weights and the named columns of the rows."""
    return {
        "features": {name: rows_of(value, rows.index) for name, value in chunk.features.items()},
        "weight": rows.weights(chunk.columns[record_format.WEIGHT]),
        **{name: rows_of(chunk.columns[name], rows.index) for name in names},
    }
