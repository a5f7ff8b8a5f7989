"""The input pipeline: TFRecord files of tasks to padded batches of support and query sets, all in
graph.

Records are parsed and encoded in large chunks, real rows only; tasks of similar length are then
batched together, so that padding is not the work.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.parsing import (
    Tasks,
    encode_rows,
    most_recent,
    padding_index,
    parse_tasks,
    row_ages,
    sample_weights,
)
from tfrec_limaml.tasks.record_files import (
    EVERYTHING,
    Share,
    compression,
    plain_options,
    read_records,
    record_files,
)
from tfrec_limaml.tasks.sides import Cuts, Side

#: Batches taken from one sorted chunk of tasks: more means less padding and coarser shuffling.
BATCHES_PER_CHUNK = 8
#: Chunks that are parsed side by side, and batches that are padded.
CHUNKS_AT_ONCE = 2
BATCHES_AT_ONCE = 2


def task_dataset(
    pattern: str | Sequence[str],
    encoder: FeatureEncoder,
    batch_size: int = 128,
    *,
    support_fraction: float | tuple[float, float] = 0.75,
    max_samples: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    with_keys: bool = False,
    epoch: tf.Variable | None = None,
    by_rows: bool = False,
    share: Share = EVERYTHING,
    batches: Sequence[int] | None = None,
    in_order: bool | None = None,
    side: Side | None = None,
    cuts: Cuts | None = None,
) -> tf.data.Dataset:
    """Batches of tasks for `fit`, `evaluate` and `predict`.

    Args:
        pattern: File pattern or patterns of task records (``.gz`` files are decompressed).
        encoder: Encodes raw columns; the model must hold the same.
        batch_size: Tasks per batch; the last batch may be smaller.
        support_fraction: Share of an unsplit record's samples, in time order, that form the support
            set. A pair draws the share anew, uniformly, for each epoch and task (beyond the paper).
            Records that are split already keep their split.
        max_samples: Keep only the most recent samples of the support part (for unsplit records: of
            the record).
        shuffle: Shuffle tasks anew in each epoch.
        seed: Makes shuffling and splits repeatable. None draws one from Python's generator, which
            `keras.utils.set_random_seed` seeds.
        with_keys: Add ``task_key`` to the batch, ``timestamp`` to both parts and passthrough
            columns to the query, for `predict`.
        epoch: Number of the epoch, int64, kept up to date by the caller. Order and splits are then
            a function of seed and epoch, so that an epoch can be read again; and the dataset reads
            one of the patterns per epoch, the first in epoch 0, and after the last one the first
            again.
        by_rows: Let batches hold about the same number of samples, `batch_size` tasks on average:
            every sample then counts alike, whether its task is long or short.
        share: The part of the records that one of several workers reads.
        batches: Batches per epoch, one number for each pattern: empty batches, of weight 0, are
            added at the end up to this number. Workers with different numbers of tasks need it, and
            an `epoch`.
        in_order: Keep the order of the files; by default where `with_keys` is on. Otherwise tasks
            of similar length come together, which pads less.
        side: The records' side, where a model adapts two definitions that stand beside each other:
            adds what `JointLiMAML` reads.
        cuts: Split records by time instead of by `support_fraction`; needs a `side`.

    Returns:
        A dataset of batches as `tfrec_limaml.models.TaskModel` takes them.

    Raises:
        LimamlError: No file matches, the first record is not one of the encoder's schema, or an
            argument is out of range.
    """
    low, high = _support_range(support_fraction)
    if batch_size < 1:
        raise LimamlError(f"batch_size must be at least 1, received {batch_size}")
    if seed is None and (shuffle or low < high):
        seed = random.getrandbits(31)
    reader = _Reader(
        encoder,
        batch_size,
        (low, high),
        max_samples,
        shuffle,
        seed or 0,
        with_keys,
        by_rows,
        with_keys if in_order is None else in_order,
        side,
        cuts,
    )
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    groups = [record_files(patterns)] if epoch is None else [record_files(p) for p in patterns]
    _check_first_record(read_records(groups[0]), groups[0][0], encoder.schema, side)

    def build() -> tf.data.Dataset:
        if epoch is not None:
            return _by_epoch(reader, groups, epoch, share, batches)
        if shuffle or low < high:
            numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
            return numbers.flat_map(lambda n: reader.batches(read_records(groups[0], share), n))
        return reader.batches(read_records(groups[0], share), tf.constant(0, tf.int64))

    # Nothing here needs a conversion, which takes a second or two.
    dataset = tf.autograph.experimental.do_not_convert(build)()
    return dataset.prefetch(BATCHES_PER_CHUNK).with_options(plain_options())


def _support_range(fraction: float | tuple[float, float]) -> tuple[float, float]:
    low, high = fraction if isinstance(fraction, tuple) else (fraction, fraction)
    if not 0.0 <= low <= high <= 1.0:
        raise LimamlError(f"support_fraction must lie between 0 and 1, received {fraction}")
    return low, high


def _by_epoch(
    reader: _Reader,
    groups: Sequence[Sequence[str]],
    epoch: tf.Variable,
    share: Share,
    batches: Sequence[int] | None,
) -> tf.data.Dataset:
    """The batches of the epoch's group of files."""
    by_file = [len(files) >= share.workers for files in groups]
    chosen = [
        files[share.worker :: share.workers] if split else files
        for files, split in zip(groups, by_file, strict=True)
    ]
    files, packed = tf.ragged.constant(chosen), compression(groups[0])
    shards = tf.constant([Share() if split else share for split in by_file], tf.int64)

    def of_epoch(_: tf.Tensor) -> tf.data.Dataset:
        number = epoch.read_value()
        group = tf.math.floormod(number, len(groups))
        worker, workers = tf.unstack(shards[group])
        records = tf.data.TFRecordDataset(files[group], packed).shard(workers, worker)
        dataset = reader.batches(records, number)
        if batches is None:
            return dataset
        empty = tf.data.Dataset.from_tensors(empty_batch(dataset.element_spec)).repeat()
        return dataset.concatenate(empty).take(tf.gather(tf.constant(batches, tf.int64), group))

    return tf.data.Dataset.range(1).flat_map(of_epoch)


def empty_batch(spec: Any) -> Any:
    """A batch of one task with one row in each part, all zeros: its weights are 0, so that it
    changes nothing.

    Args:
        spec: Element specification of a dataset of batches.
    """
    return tf.nest.map_structure(
        lambda s: tf.zeros([1 if size is None else size for size in s.shape], s.dtype), spec
    )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Serialized records to batches; see `task_dataset` for the fields."""

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
    cuts: Cuts | None = None

    @property
    def _of_support(self) -> tuple[str, ...]:
        if self.with_keys:
            return (record_format.LABEL, record_format.TIMESTAMP)
        return (record_format.LABEL,)

    @property
    def _of_query(self) -> tuple[str, ...]:
        carried = self.encoder.schema.carry if self.with_keys else ()
        return (*self._of_support, *carried)

    def batches(self, records: tf.data.Dataset, number: tf.Tensor) -> tf.data.Dataset:
        """One pass over the records. Order and splits depend on the seed and the number of the
        pass, int64, alone.
        """
        size = self.batch_size * BATCHES_PER_CHUNK
        seeds = tf.random.stateless_uniform(
            [2], tf.stack([tf.constant(self.seed, tf.int64), number]), 0, 2**62, tf.int64
        )
        if self.shuffle:
            # Of the graph of one pass, not of the program: its seed would be mixed in.
            tf.random.set_seed(self.seed + 1)  # with 0 TensorFlow would compare tensors
            records = records.shuffle(4 * size, seeds[0], reshuffle_each_iteration=False)
        # One chunk ahead of each stage, so that reading, parsing and padding go on side by side.
        chunks = (
            records.batch(size)
            .prefetch(1)
            .map(lambda chunk: self._chunk(chunk, number), num_parallel_calls=CHUNKS_AT_ONCE)
            .prefetch(1)
        )
        dataset = chunks.flat_map(_once_per_batch).map(
            self._batch, num_parallel_calls=BATCHES_AT_ONCE
        )
        if self.shuffle:
            dataset = dataset.shuffle(
                2 * BATCHES_PER_CHUNK, seeds[1], reshuffle_each_iteration=False
            )
        return dataset

    def _chunk(self, records: tf.Tensor, number: tf.Tensor) -> _Chunk:
        beside = () if self.side is None else (self.side.other,)
        tasks = parse_tasks(records, self.encoder.schema, beside)
        if self.side is not None and self.cuts is not None:
            tasks = self.side.split(tasks, self.cuts)
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
        else:  # in predictions, the support part is the longer and dearer one
            order = tf.argsort(support if self.with_keys else tasks.counts, stable=True)
        wanted = (record_format.WEIGHT, record_format.TIMESTAMP, *self._of_query)
        columns = {name: tasks.columns[name] for name in dict.fromkeys(wanted)}
        starts = _batch_starts(tf.gather(tasks.counts, order), self.batch_size, self.by_rows)
        return _Chunk(tasks._replace(columns=columns), features, support, order, starts)

    def _support_share(self, keys: tf.Tensor, number: tf.Tensor) -> tf.Tensor | float:
        """Each task's share of support samples: drawn from its key, the seed and the number of the
        pass, so that neither order nor number of workers changes it.
        """
        low, high = self.support_range
        if low == high:
            return low
        salt = tf.strings.join([str(self.seed), tf.strings.as_string(number)], "\n")
        drawn = tf.strings.to_hash_bucket_fast(tf.strings.join([salt, keys], "\n"), 2**24)
        return low + (high - low) * tf.cast(drawn, tf.float32) / 2**24

    def _batch(self, chunk: _Chunk, number: tf.Tensor) -> dict[str, Any]:
        chosen = chunk.order[chunk.starts[number] : chunk.starts[number + 1]]
        batch = _batch(chunk, chosen, self._of_support, self._of_query)
        return batch if self.with_keys else {name: batch[name] for name in ("support", "query")}


def support_length(
    counts: tf.Tensor, query_start: tf.Tensor, share: tf.Tensor | float
) -> tf.Tensor:
    """Length of each task's support part, int64 ``[T]``: as the record says, or the first `share`
    of its samples.

    At least one sample is left to the query; a single sample is all query.
    """
    drawn = tf.cast(tf.math.ceil(tf.cast(counts, tf.float32) * share - 1e-4), tf.int64)
    return tf.where(
        query_start >= 0, query_start, tf.clip_by_value(drawn, 0, tf.maximum(counts - 1, 0))
    )


class _Chunk(NamedTuple):
    """A chunk of tasks with their encoded rows, the lengths of their support parts, the order in
    which they go into batches, and where in this order each batch starts (and the last one ends).
    """

    tasks: Tasks
    features: Features
    support: tf.Tensor
    order: tf.Tensor
    starts: tf.Tensor


def _batch_starts(counts: tf.Tensor, batch_size: int, by_rows: bool) -> tf.Tensor:
    """Where batches start among tasks of these many samples, and where the last one ends.

    There are as many batches as `batch_size` asks for, also by rows: each then ends with the task
    in which its share of the samples ends, and holds at least one task.
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


def _once_per_batch(chunk: _Chunk) -> tf.data.Dataset:
    """The same chunk once per batch, with the batch's number. Nothing is copied."""
    batches = tf.size(chunk.starts, tf.int64) - 1
    return tf.data.Dataset.zip(
        tf.data.Dataset.from_tensors(chunk).repeat(batches), tf.data.Dataset.range(batches)
    )


def _batch(
    chunk: _Chunk, chosen: tf.Tensor, of_support: Sequence[str], of_query: Sequence[str]
) -> dict[str, Any]:
    """The chunk's tasks at `chosen` ``[T]``, with these columns of their support and query rows."""
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


def _tasks_of(side: Side | None) -> str:
    return "" if side is None else f" --task {','.join(side.sides.definitions)}"


def _check_first_record(
    dataset: tf.data.Dataset, file: str, schema: Schema, side: Side | None
) -> None:
    beside = () if side is None else (side.other,)
    try:
        for serialized in dataset.batch(1).take(1):
            parse_tasks(serialized, schema, beside)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error.message).splitlines()[0])
        raise LimamlError(
            f"{file} does not hold task records of schema {schema.name!r} ({reason}); `limaml "
            f"prepare{_tasks_of(side)}` writes them"
        ) from error
