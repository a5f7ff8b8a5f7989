"""Turns serialized task records into batches of tasks, in chunks sorted by length."""

from __future__ import annotations

import dataclasses
import numbers
import os
from typing import Any

import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.padded_batches import (
    Chunk,
    batch_starts,
    once_per_batch,
    padded_batch,
    support_length,
)
from tfrec_limaml.tasks.parsing import (
    encode_rows,
    most_recent,
    parse_tasks,
    rows_of,
)
from tfrec_limaml.tasks.sides import Side, SplitTimes

#: Batches taken from one sorted chunk of tasks: more means less padding and coarser shuffling.
BATCHES_PER_CHUNK = 8
#: Maximum number of tasks that are parsed in parallel, and padded in parallel: limits memory.
_PARSED_AT_ONCE, _PADDED_AT_ONCE = 2**14, 2**13


@dataclasses.dataclass(frozen=True)
class BatchReader:
    """Reads serialized records as batches; see `task_dataset` for the fields."""

    encoder: FeatureEncoder
    batch_size: int
    support_range: tuple[float, float]
    max_samples: int | None
    shuffle: bool
    seed: int
    with_keys: bool
    by_rows: bool
    in_order: bool
    side: Side | None = None
    split_times: SplitTimes | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, FeatureEncoder):
            raise LimamlError(f"encoder must be a FeatureEncoder, received {self.encoder!r}")
        for name in ("batch_size", "max_samples"):
            number = getattr(self, name)
            if number is None and name == "max_samples":
                continue
            if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < 1:
                raise LimamlError(
                    f"{name} must be a whole number of at least 1, received {number!r}"
                )

    @property
    def draws(self) -> bool:
        """Whether the order or the splits of a pass are drawn."""
        low, high = self.support_range
        return self.shuffle or low < high

    @property
    def _support_columns(self) -> tuple[str, ...]:
        if self.with_keys:
            return (record_format.LABEL, record_format.TIMESTAMP)
        return (record_format.LABEL,)

    @property
    def _query_columns(self) -> tuple[str, ...]:
        carried = self.encoder.schema.carry if self.with_keys else ()
        return (*self._support_columns, *carried)

    def batches(self, records: tf.data.Dataset, number: tf.Tensor) -> tf.data.Dataset:
        """The batches of one pass over the records.

        Order and splits depend only on the seed and on `number`, the number of the pass, int64.
        """
        size = self.batch_size * BATCHES_PER_CHUNK
        seeds = tf.random.stateless_uniform(
            [2], tf.stack([tf.constant(self.seed, tf.int64), number]), 0, 2**62, tf.int64
        )
        if self.shuffle:
            # The seed of this pass's graph: otherwise the global seed would be mixed in.
            tf.random.set_seed(self.seed + 1)  # TensorFlow would compare tensors with a seed of 0
            records = records.shuffle(4 * size, seeds[0], reshuffle_each_iteration=False)
        # Each stage prefetches one chunk, so that reading, parsing and padding run in parallel.
        chunks = (
            records.batch(size)
            .prefetch(1)
            .map(
                lambda chunk: self._chunk(chunk, number),
                num_parallel_calls=_at_once(_PARSED_AT_ONCE, size),
            )
            .prefetch(1)
        )
        dataset = chunks.flat_map(once_per_batch).map(
            self._batch, num_parallel_calls=_at_once(_PADDED_AT_ONCE, self.batch_size)
        )
        if self.shuffle:
            dataset = dataset.shuffle(
                2 * BATCHES_PER_CHUNK, seeds[1], reshuffle_each_iteration=False
            )
        return dataset

    def _chunk(self, records: tf.Tensor, number: tf.Tensor) -> Chunk:
        other_definitions = () if self.side is None else (self.side.other,)
        tasks = parse_tasks(records, self.encoder.schema, other_definitions)
        if self.side is not None and self.split_times is not None:
            tasks = self.side.split(tasks, self.split_times)
        if self.max_samples is not None:
            tasks = most_recent(tasks, self.max_samples)
        features = encode_rows(tasks, self.encoder)
        if self.side is not None:
            features = {**features, **self.side.features(tasks)}
        support = support_length(
            tasks.counts, tasks.query_start, self._support_share(tasks.task_key, number)
        )
        if self.in_order:
            order = tf.range(tf.size(tasks.counts))
        else:
            order = tf.argsort(tasks.counts, stable=True)
        names = (record_format.WEIGHT, record_format.TIMESTAMP, *self._query_columns)
        columns = {name: tasks.columns[name] for name in dict.fromkeys(names)}
        starts = batch_starts(rows_of(tasks.counts, order), self.batch_size, self.by_rows)
        return Chunk(
            tasks.task_key, tasks.first, tasks.counts, support, order, starts, columns, features
        )

    def _support_share(self, keys: tf.Tensor, number: tf.Tensor) -> tf.Tensor | float:
        """Each task's share of support samples.

        It is drawn from the task's key, the seed and the number of the pass, so it depends neither
        on the order nor on the number of workers.
        """
        low, high = self.support_range
        if low == high:
            return low
        salt = tf.strings.join([str(self.seed), tf.strings.as_string(number)], "\n")
        buckets = tf.strings.to_hash_bucket_fast(tf.strings.join([salt, keys], "\n"), 2**24)
        return low + (high - low) * tf.cast(buckets, tf.float32) / 2**24

    def _batch(self, chunk: Chunk, bounds: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        indices = rows_of(chunk.order, tf.range(*bounds))
        batch = padded_batch(chunk, indices, self._support_columns, self._query_columns)
        return batch if self.with_keys else {name: batch[name] for name in ("support", "query")}


def _at_once(tasks: int, each: int) -> int:
    """Number of elements, of `each` tasks, to compute in parallel.

    It is one per processor core, together at most `tasks` tasks, but at least 2.
    """
    return max(2, min(os.cpu_count() or 2, tasks // each))
