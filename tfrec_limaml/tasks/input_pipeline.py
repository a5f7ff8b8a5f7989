"""The input pipeline: reads files of task records as padded batches of support and query sets.

Records are parsed and encoded in large chunks, without padding; tasks of similar length are then
batched together, so that there is little padding.
"""

from __future__ import annotations

import itertools
import numbers
import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.batch_reader import BATCHES_PER_CHUNK, BatchReader
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.parsing import parse_tasks
from tfrec_limaml.tasks.record_files import (
    EVERYTHING,
    Pattern,
    Share,
    compression,
    patterns_of,
    plain_options,
    read_records,
    reader_count,
    record_files,
    records_of,
)
from tfrec_limaml.tasks.sides import Side, SplitTimes
from tfrec_limaml.tasks.support_fraction import support_range
from tfrec_limaml.wording import counted


def task_dataset(
    pattern: Pattern | Iterable[Pattern],
    encoder: FeatureEncoder,
    batch_size: int = 128,
    *,
    support_fraction: float | Sequence[float] = 0.75,
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
    split_times: SplitTimes | None = None,
) -> tf.data.Dataset:
    """Batches of tasks for `fit`, `evaluate` and `predict`.

    Examples:
        >>> train = task_dataset("tasks/user/train-*", encoder, 128, shuffle=True, seed=1)

    Args:
        pattern: File pattern or patterns of task records (``.gz`` files are decompressed). A file
            that several patterns match is read once. Unless the order of the files is kept, up to
            eight are read in parallel.
        encoder: Encodes raw columns; the model must have the same encoder.
        batch_size: Tasks per batch; the last batch may be smaller.
        support_fraction: Share of an unsplit record's samples, in time order, that form the support
            set. For a pair of numbers, the share is drawn uniformly between them for each epoch and
            task (the paper has one share). At least one sample is a query sample. Records that are
            already split keep their split.
        max_samples: Keep only the most recent samples of the support part (for unsplit records: of
            the record).
        shuffle: Shuffle the tasks in each epoch.
        seed: Seed of shuffling and splits. None draws one from Python's generator, which
            `keras.utils.set_random_seed` seeds.
        with_keys: Add ``task_key`` to the batch, ``timestamp`` to both parts and passthrough
            columns to the query, for `predict`.
        epoch: Number of the epoch, int64, kept up to date by the caller. Order and splits then
            depend on seed and epoch, so that an epoch can be repeated. The dataset reads one of the
            patterns per epoch, beginning with the first, and starts again after the last.
        by_rows: Fill batches with about the same number of samples, `batch_size` tasks on average:
            all samples then have the same weight, in long and short tasks.
        share: The part of the records to read, if several workers share them.
        batches: Batches per epoch, one number for each pattern. Batches of weight 0 are added at
            the end up to this number, and batches beyond it are left out. Workers with different
            numbers of tasks need it; requires an `epoch`.
        in_order: Keep the order of the files; the default with `with_keys`. Otherwise tasks of
            similar length are batched together, which needs less padding.
        side: The side of the records, for a model that adapts two sides. The batches then have the
            further features of `JointLiMAML`.
        split_times: Split records by time instead of by `support_fraction`; needs a `side`.

    Returns:
        A dataset of batches for `tfrec_limaml.models.TaskModel`.

    Raises:
        LimamlError: No file matches, the first record does not match the encoder's schema, or an
            argument is out of range.
    """
    low, high = support_range(support_fraction)
    reader = BatchReader(
        encoder,
        batch_size,
        (low, high),
        max_samples,
        shuffle,
        _seed(seed, shuffle or low < high),
        with_keys,
        by_rows,
        with_keys if in_order is None else in_order,
        side,
        split_times,
    )
    groups = _file_groups(pattern, one_per_epoch=epoch is not None)
    _check_epoch(epoch, batches, len(groups))
    _check_first_record(read_records(groups[0]), groups[0][0], encoder.schema, side)
    if epoch is not None:
        dataset = _by_epoch(reader, groups, epoch, share, batches)
    else:
        dataset = _all_files(reader, groups[0], share)
    return dataset.prefetch(BATCHES_PER_CHUNK).with_options(plain_options())


def _check_epoch(epoch: Any, batches: Sequence[int] | None, patterns: int) -> None:
    """Raises `LimamlError` if `epoch` is invalid, or `batches` do not match the patterns."""
    variable = hasattr(epoch, "read_value") and epoch.dtype == tf.int64
    if epoch is not None and not variable:
        raise LimamlError(f"epoch must be tf.Variable(0, dtype=tf.int64), received {epoch!r}")
    if batches is not None and epoch is None:
        raise LimamlError(f"batches needs an epoch, received batches {batches} without one")
    if batches is not None and len(batches) != patterns:
        raise LimamlError(
            f"batches must be one number for each of {counted(patterns, 'pattern')}, received "
            f"{batches}"
        )


def _seed(seed: int | None, needed: bool) -> int:
    """The given seed; without one, a number of Python's generator if anything is drawn."""
    if seed is not None and (not isinstance(seed, numbers.Integral) or seed < 0):
        raise LimamlError(f"seed must be a whole number of at least 0, received {seed!r}")
    return random.getrandbits(31) if seed is None and needed else seed or 0


def _file_groups(pattern: Pattern | Iterable[Pattern], one_per_epoch: bool) -> list[list[str]]:
    """The files of each pattern, if each is read in its own epoch; otherwise all files together."""
    patterns = patterns_of(pattern)
    return [record_files(p) for p in patterns] if one_per_epoch else [record_files(patterns)]


# Nothing here needs autograph, whose conversion takes a second or two.
@tf.autograph.experimental.do_not_convert
def _all_files(reader: BatchReader, files: Sequence[str], share: Share) -> tf.data.Dataset:
    """The batches of one pass over the files; its number is random if order or splits are drawn."""

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        return reader.batches(read_records(files, share, reader.in_order), number)

    if not reader.draws:
        return one_pass(tf.constant(0, tf.int64))
    draws = tf.data.Dataset.random(reader.seed, rerandomize_each_iteration=True).take(1)
    return draws.flat_map(one_pass)


@tf.autograph.experimental.do_not_convert
def _by_epoch(
    reader: BatchReader,
    groups: Sequence[Sequence[str]],
    epoch: tf.Variable,
    share: Share,
    batches: Sequence[int] | None,
) -> tf.data.Dataset:
    """The batches of the epoch's group of files."""
    by_file = [len(files) >= share.workers for files in groups]
    worker_files = [
        files[share.worker :: share.workers] if split else files
        for files, split in zip(groups, by_file, strict=True)
    ]
    ends = list(itertools.accumulate(map(len, worker_files)))
    shards = [Share() if split else share for split in by_file]
    sizes = [0] * len(groups) if batches is None else batches
    table = tf.constant(  # a row for each group
        [
            [end - len(files), end, *shard, size]
            for files, end, shard, size in zip(worker_files, ends, shards, sizes, strict=True)
        ],
        tf.int64,
    )
    files, compression_type = tf.constant([*itertools.chain(*worker_files)]), compression(groups[0])
    in_parallel = 1 if reader.in_order else reader_count(max(map(len, worker_files)))

    def epoch_batches(_: tf.Tensor) -> tf.data.Dataset:
        number = epoch.read_value()
        row = tf.gather(table, tf.math.floormod(number, len(groups)))
        begin, end, worker, workers, size = tf.unstack(row)
        records = records_of(tf.gather(files, tf.range(begin, end)), compression_type, in_parallel)
        dataset = reader.batches(records.shard(workers, worker), number)
        if batches is None:
            return dataset
        empty = tf.data.Dataset.from_tensors(empty_batch(dataset.element_spec)).repeat()
        return dataset.concatenate(empty).take(size)

    return tf.data.Dataset.range(1).flat_map(epoch_batches)


def empty_batch(spec: Any) -> Any:
    """A batch of one task with one row in each part, all zeros.

    Its weights are 0, so it has no effect.

    Args:
        spec: Element specification of a dataset of batches.
    """
    return tf.nest.map_structure(
        lambda s: tf.zeros([1 if size is None else size for size in s.shape], s.dtype), spec
    )


def _task_flag(side: Side | None) -> str:
    return "" if side is None else f" --task {','.join(side.sides.definitions)}"


def _check_first_record(
    dataset: tf.data.Dataset, file: str, schema: Schema, side: Side | None
) -> None:
    other_definitions = () if side is None else (side.other,)
    try:
        for serialized in dataset.batch(1).take(1):
            parse_tasks(serialized, schema, other_definitions)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error.message).splitlines()[0])
        raise LimamlError(
            f"{file} does not hold task records of schema {schema.name!r} ({reason}); `limaml "
            f"prepare{_task_flag(side)}` writes them"
        ) from error
