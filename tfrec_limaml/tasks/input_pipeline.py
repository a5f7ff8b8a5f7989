"""The input pipeline: TFRecord files of tasks to padded batches of support and query sets, all in
graph.

Records are parsed and encoded in large chunks, real rows only; tasks of similar length are then
batched together, so that padding is not the work.
"""

from __future__ import annotations

import glob
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

#: Batches taken from one sorted chunk of tasks: more means less padding and coarser shuffling.
BATCHES_PER_CHUNK = 8
#: Blocks that are parsed side by side.
CHUNKS_AT_ONCE = 2


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
    batch_rows: int | None = None,
) -> tf.data.Dataset:
    """Batches of tasks for `fit`, `evaluate` and `predict`.

    Args:
        pattern: File pattern or patterns of task records (``.gz`` files are decompressed).
        encoder: Encodes raw columns; the model must hold the same.
        batch_size: Tasks per batch; the last batch may be smaller.
        support_fraction: Share of an uncut record's samples, in time order, that form the support
            set. A pair draws the share anew, uniformly, for each epoch and task (beyond the paper).
            Records that are split already keep their split.
        max_samples: Keep only the most recent samples of the support part (for uncut records: of
            the record).
        shuffle: Shuffle tasks anew in each epoch.
        seed: Makes shuffling and cuts repeatable.
        with_keys: Add ``task_key`` to the batch, ``timestamp`` to both parts and carried columns to
            the query, for `predict`. Keeps the order of the files.
        epoch: Number of the epoch, int64, kept up to date by the caller: the dataset then reads one
            of the patterns per epoch, the first in epoch 0, and after the last one the first again.
        batch_rows: Let batches hold about this many samples, whatever the number of tasks: every
            sample then counts alike, whether its task is long or short. `batch_size` is the number
            of tasks that are expected to fill one.

    Returns:
        A dataset of batches as `tfrec_limaml.models.TaskModel` takes them.

    Raises:
        LimamlError: No file matches, the first record is not one of the encoder's schema, or an
            argument is out of range.
    """
    serialized, files = _records(pattern, epoch)
    low, high = (
        support_fraction
        if isinstance(support_fraction, tuple)
        else (support_fraction, support_fraction)
    )
    if not 0.0 <= low <= high <= 1.0:
        raise LimamlError(f"support_fraction must lie between 0 and 1, received {support_fraction}")
    for name, value in (("batch_size", batch_size), ("batch_rows", batch_rows)):
        if value is not None and value < 1:
            raise LimamlError(f"{name} must be at least 1, received {value}")
    _check_first_record(serialized, files[0], encoder.schema)
    of_support = (
        (record_format.LABEL, record_format.TIMESTAMP) if with_keys else (record_format.LABEL,)
    )
    of_query = (*of_support, *encoder.schema.carry) if with_keys else of_support
    chunk = batch_size * BATCHES_PER_CHUNK
    if shuffle:
        serialized = serialized.shuffle(4 * chunk, seed=seed)
    serialized = serialized.batch(chunk)
    generator_seed = 0 if seed is None else seed
    draws = (
        tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        if low < high
        else tf.data.Dataset.range(2**62)
    )

    def to_chunk(records: tf.Tensor, draw: tf.Tensor) -> _Chunk:
        tasks = parse_tasks(records, encoder.schema)
        if max_samples is not None:
            tasks = most_recent(tasks, max_samples)
        share = (
            tf.random.stateless_uniform(
                tf.shape(tasks.task_key), tf.stack([draw, generator_seed]), low, high
            )
            if low < high
            else low
        )
        order = (
            tf.range(tf.size(tasks.counts)) if with_keys else tf.argsort(tasks.counts, stable=True)
        )
        features, support = (
            encode_rows(tasks, encoder),
            support_length(tasks.counts, tasks.query_start, share),
        )
        columns = {
            name: tasks.columns[name]
            for name in {record_format.WEIGHT, record_format.TIMESTAMP, *of_support, *of_query}
        }
        starts = _batch_starts(tf.gather(tasks.counts, order), batch_size, batch_rows)
        return _Chunk(tasks._replace(columns=columns), features, support, order, starts)

    def to_batch(chunk: _Chunk, number: tf.Tensor) -> dict[str, Any]:
        batch = _batch(
            chunk,
            chunk.order[chunk.starts[number] : chunk.starts[number + 1]],
            of_support,
            of_query,
        )
        return batch if with_keys else {name: batch[name] for name in ("support", "query")}

    chunks = tf.data.Dataset.zip(serialized, draws).map(to_chunk, num_parallel_calls=CHUNKS_AT_ONCE)
    dataset = chunks.flat_map(_once_per_batch).map(to_batch)
    if shuffle:
        dataset = dataset.shuffle(2 * BATCHES_PER_CHUNK, seed=seed)
    return dataset.prefetch(BATCHES_PER_CHUNK).with_options(_without_tuner())


def _records(
    pattern: str | Sequence[str], epoch: tf.Variable | None
) -> tuple[tf.data.Dataset, list[str]]:
    """The serialized records of the files, all or those of the epoch's pattern; and the files."""
    if epoch is None:
        files = record_files(pattern)
        return tf.data.TFRecordDataset(files, _compression(files)), files
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    by_epoch = [record_files(one) for one in patterns]
    groups = tf.ragged.constant(by_epoch)

    def of_epoch(_: tf.Tensor) -> tf.data.Dataset:
        number = tf.math.floormod(epoch.read_value(), len(by_epoch))
        return tf.data.TFRecordDataset(groups[number], _compression(by_epoch[0]))

    return tf.data.Dataset.range(1).flat_map(of_epoch), by_epoch[0]


def _compression(files: Sequence[str]) -> str:
    return "GZIP" if files[0].endswith(".gz") else ""


def count_tasks(pattern: str | Sequence[str]) -> tuple[int, int]:
    """Tasks and samples in the files that match: of records as `limaml prepare` writes them, which
    state their number of samples.
    """
    files = record_files(pattern)
    entry = {record_format.SAMPLE_COUNT: tf.io.FixedLenFeature([], tf.int64, 1)}

    def samples(serialized: tf.Tensor) -> tf.Tensor:
        context, *_ = tf.io.parse_sequence_example(serialized, context_features=entry)
        return context[record_format.SAMPLE_COUNT]

    dataset = tf.data.TFRecordDataset(files, _compression(files))
    counts = dataset.batch(4096).map(samples)
    zero = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    tasks, rows = counts.reduce(
        zero, lambda total, n: (total[0] + tf.size(n, tf.int64), total[1] + tf.reduce_sum(n))
    )
    return int(tasks), int(rows)


def _without_tuner() -> tf.data.Options:
    """There is nothing to tune; and at the end of each epoch `fit` would wait for the tuner, whose
    back-off doubles its pauses, to wake up.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


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


def _batch_starts(counts: tf.Tensor, batch_size: int, batch_rows: int | None) -> tf.Tensor:
    """Where batches start among tasks of these many samples, and where the last one ends."""
    tasks = tf.size(counts)
    if batch_rows is None:
        return tf.concat([tf.range(0, tasks, batch_size), [tasks]], 0)
    total = tf.cumsum(counts)
    filled = (total - 1) // batch_rows  # the batch that a task's last sample falls into
    changes = tf.where(filled[1:] != filled[:-1])[:, 0] + 1
    return tf.concat([[0], tf.cast(changes, tf.int32), [tasks]], 0)


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


def _check_first_record(dataset: tf.data.Dataset, file: str, schema: Schema) -> None:
    try:
        for serialized in dataset.batch(1).take(1):
            parse_tasks(serialized, schema)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error.message).splitlines()[0])
        raise LimamlError(
            f"{file} does not hold task records of schema {schema.name!r} ({reason}); `limaml "
            "prepare` writes them"
        ) from error


def record_files(pattern: str | Sequence[str]) -> list[str]:
    """The files that match, sorted; raises `LimamlError` where none does."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    files = sorted(
        file for p in patterns for file in (tf.io.gfile.glob(p) if "://" in p else glob.glob(p))
    )
    if not files:
        raise LimamlError(f"no task records match {patterns}; `limaml prepare` writes them")
    return files
