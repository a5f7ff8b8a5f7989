"""Batches of padded support and query sets, from a chunk of tasks whose rows are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.features import Features
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import (
    Tasks,
    padding_index,
    row_ages,
    sample_weights,
)


class Chunk(NamedTuple):
    """A chunk of tasks with their encoded rows, the lengths of their support parts, the order in
    which they go into batches, and where in this order each batch starts (and the last one ends).
    """

    tasks: Tasks
    features: Features
    support: tf.Tensor
    order: tf.Tensor
    starts: tf.Tensor


def support_length(
    counts: tf.Tensor, query_start: tf.Tensor, share: tf.Tensor | float
) -> tf.Tensor:
    """Length of each task's support part, int64 ``[T]``: the one in the record, or the first
    `share` of its samples.

    At least one sample remains in the query set; a single sample is a query sample.
    """
    drawn = tf.cast(tf.math.ceil(tf.cast(counts, tf.float32) * share - 1e-4), tf.int64)
    return tf.where(
        query_start >= 0, query_start, tf.clip_by_value(drawn, 0, tf.maximum(counts - 1, 0))
    )


def batch_starts(counts: tf.Tensor, batch_size: int, by_rows: bool) -> tf.Tensor:
    """Where batches start among tasks with `counts` samples, and where the last one ends.

    The number of batches follows from `batch_size`, also by rows: each batch then ends with the
    task in which its share of the samples ends, and holds at least one task.
    """
    tasks = tf.size(counts)
    starts = tf.range(0, tasks, batch_size)
    if by_rows:
        batches = tf.size(starts)
        number = tf.range(1, batches)
        ends = tf.cumsum(counts)
        wanted = tf.cast(number, tf.float64) * tf.cast(
            ends[-1] / tf.cast(batches, ends.dtype), tf.float64
        )
        found = tf.searchsorted(tf.cast(ends, tf.float64), wanted) + 1
        # The largest of found[j] + (i - j) over j <= i: increasing, so that no batch is empty.
        steps = tf.where(number[:, None] >= number, found - number, tf.int32.min)
        found = tf.minimum(number + tf.reduce_max(steps, -1), tasks - batches + number)
        starts = tf.concat([[0], found], 0)
    return tf.concat([starts, [tasks]], 0)


def once_per_batch(chunk: Chunk) -> tf.data.Dataset:
    """The same chunk once per batch, with the batch's number, without copies."""
    batches = tf.size(chunk.starts, tf.int64) - 1
    return tf.data.Dataset.zip(
        tf.data.Dataset.from_tensors(chunk).repeat(batches), tf.data.Dataset.range(batches)
    )


def padded_batch(
    chunk: Chunk, chosen: tf.Tensor, of_support: Sequence[str], of_query: Sequence[str]
) -> dict[str, Any]:
    """The chunk's tasks at `chosen` ``[T]``, with the given columns of their support and query
    rows.
    """
    tasks = chunk.tasks
    first, counts, support = (
        tf.gather(v, chosen) for v in (tasks.splits[:-1], tasks.counts, chunk.support)
    )

    def samples(begin: tf.Tensor, length: tf.Tensor, wanted: Sequence[str]) -> dict[str, Any]:
        index = padding_index(begin, length, first)
        padded = {name: tf.gather(value, index) for name, value in chunk.features.items()}
        weight = sample_weights(tasks.columns[record_format.WEIGHT], index, length)
        return {
            "features": padded,
            "weight": weight,
            **{name: tf.gather(tasks.columns[name], index) for name in wanted},
        }

    index = padding_index(first, support, first)
    age = row_ages(tasks.columns[record_format.TIMESTAMP], index, support)
    return {
        "support": {**samples(first, support, of_support), "age": age},
        "query": samples(first + support, counts - support, of_query),
        "task_key": tf.gather(tasks.task_key, chosen),
    }
