"""The input pipeline: TFRecord files of tasks to padded batches of support and query sets, all in graph.

Records are parsed and encoded in large blocks, real rows only; tasks of similar length are then batched together, so that
padding is not the work.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrec_limaml import records
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features
from tfrec_limaml.parsing import Tasks, encode_rows, padding_index, parse_tasks, sample_weights
from tfrec_limaml.preprocessing import FeatureEncoder
from tfrec_limaml.schema import Schema

#: Batches taken from one sorted block of tasks: more means less padding and coarser shuffling.
BATCHES_PER_BLOCK = 8


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
) -> tf.data.Dataset:
    """Batches of tasks for `fit`, `evaluate` and `predict`.

    Args:
        pattern: File pattern or patterns of task records (``.gz`` files are decompressed).
        encoder: Encodes raw columns; the model must hold the same.
        batch_size: Tasks per batch; the last batch may be smaller.
        support_fraction: Share of an uncut record's samples, in time order, that form the support set. A pair draws the share anew,
            uniformly, for each epoch and task (beyond the paper). Records that are cut already keep their cut.
        max_samples: Keep only the most recent samples of the support part (for uncut records: of the record).
        shuffle: Shuffle tasks anew in each epoch.
        seed: Makes shuffling and cuts repeatable.
        with_keys: Add ``task_key`` to the batch, ``timestamp`` to both parts and carried columns to the query, for `predict`. Keeps the
            order of the files.

    Returns:
        A dataset of batches as `tfrec_limaml.models.TaskModel` takes them.

    Raises:
        LimamlError: No file matches, the first record is not one of the encoder's schema, or an argument is out of range.
    """
    files = _files(pattern)
    low, high = support_fraction if isinstance(support_fraction, tuple) else (support_fraction, support_fraction)
    if not 0.0 <= low <= high <= 1.0:
        raise LimamlError(f"support_fraction must lie between 0 and 1, received {support_fraction}")
    if batch_size < 1:
        raise LimamlError(f"batch_size must be at least 1, received {batch_size}")
    dataset = tf.data.TFRecordDataset(files, "GZIP" if files[0].endswith(".gz") else "")
    _check_first_record(dataset, files[0], encoder.schema)
    block = batch_size * BATCHES_PER_BLOCK
    if shuffle:
        dataset = dataset.shuffle(4 * block, seed=seed)
    dataset = dataset.batch(block)
    generator_seed = 0 if seed is None else seed
    draws = tf.data.Dataset.random(seed, rerandomize_each_iteration=True) if low < high else tf.data.Dataset.range(2**62)

    def to_batches(serialized: tf.Tensor, draw: tf.Tensor) -> tf.data.Dataset:
        tasks = parse_tasks(serialized, encoder.schema)
        share = tf.random.stateless_uniform(tf.shape(tasks.task_key), tf.stack([draw, generator_seed]), low, high) if low < high else low
        return _batches(tasks, encode_rows(tasks, encoder), share, batch_size, max_samples, with_keys, encoder.schema.carry)

    dataset = tf.data.Dataset.zip(dataset, draws).flat_map(to_batches)
    if shuffle:
        dataset = dataset.shuffle(2 * BATCHES_PER_BLOCK, seed=seed)
    return dataset.prefetch(BATCHES_PER_BLOCK)


def cut(counts: tf.Tensor, query_start: tf.Tensor, share: tf.Tensor | float) -> tf.Tensor:
    """Length of each task's support part, int64 ``[T]``: the record's own cut, or the first `share` of its samples.

    At least one sample is left to the query; a single sample is all query.
    """
    drawn = tf.cast(tf.math.ceil(tf.cast(counts, tf.float32) * share - 1e-4), tf.int64)
    return tf.where(query_start >= 0, query_start, tf.clip_by_value(drawn, 0, tf.maximum(counts - 1, 0)))


def _batches(
    tasks: Tasks,
    features: Features,
    share: Any,
    batch_size: int,
    max_samples: int | None,
    with_keys: bool,
    carry: Sequence[str],
) -> tf.data.Dataset:
    first, counts = tasks.splits[:-1], tasks.counts
    if max_samples is not None:
        drop = tf.maximum(tf.where(tasks.query_start >= 0, tasks.query_start, counts) - max_samples, 0)
        first, counts = first + drop, counts - drop
        tasks = tasks._replace(query_start=tf.where(tasks.query_start >= 0, tasks.query_start - drop, -1))
    support = cut(counts, tasks.query_start, share)
    number = tf.shape(counts, tf.int64)[0]
    order = tf.range(number) if with_keys else tf.argsort(counts, stable=True)
    starts = tf.range(0, number, batch_size, tf.int64)
    extra = (records.LABEL, records.TIMESTAMP, *carry) if with_keys else (records.LABEL,)

    def samples(begin: tf.Tensor, length: tf.Tensor, filler: tf.Tensor, wanted: Sequence[str]) -> dict[str, Any]:
        index = padding_index(begin, length, filler)
        padded = {name: tf.gather(value, index) for name, value in features.items()}
        weight = sample_weights(tasks.columns[records.WEIGHT], index, length)
        return {"features": padded, "weight": weight, **{name: tf.gather(tasks.columns[name], index) for name in wanted}}

    def one_batch(start: tf.Tensor) -> dict[str, Any]:
        chosen = order[start : start + batch_size]
        at, of_support, total, filler = (tf.gather(v, chosen) for v in (first, support, counts, tasks.splits[:-1]))
        batch: dict[str, Any] = {
            "support": samples(at, of_support, filler, (records.LABEL, records.TIMESTAMP) if with_keys else (records.LABEL,)),
            "query": samples(at + of_support, total - of_support, filler, extra),
        }
        if with_keys:
            batch["task_key"] = tf.gather(tasks.task_key, chosen)
        return batch

    return tf.data.Dataset.from_tensor_slices(starts).map(one_batch)


def _check_first_record(dataset: tf.data.Dataset, file: str, schema: Schema) -> None:
    try:
        for serialized in dataset.batch(1).take(1):
            parse_tasks(serialized, schema)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error.message).splitlines()[0])
        raise LimamlError(
            f"{file} does not hold task records of schema {schema.name!r} ({reason}); `limaml prepare` writes them"
        ) from error


def _files(pattern: str | Sequence[str]) -> list[str]:
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    files = sorted(file for p in patterns for file in (tf.io.gfile.glob(p) if "://" in p else glob.glob(p)))
    if not files:
        raise LimamlError(f"no task records match {patterns}; `limaml prepare` writes them")
    return files
