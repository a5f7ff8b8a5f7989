"""Finds, reads and counts files of task records, and shares them between workers."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks import record_format

#: Number of files that are read and decompressed in parallel; determines the order of the records.
READERS = 8
#: Records that are taken from one of these files before the next.
_BLOCK = 64
#: Bytes that are read at once.
_READ_BYTES = 2**18

#: A file pattern.
Pattern = str | os.PathLike[str]


class Share(NamedTuple):
    """The part of the records that one of several workers reads.

    Each record belongs to one worker. If there are at least as many files as workers, a worker
    reads every `workers`-th file; otherwise it reads all files and keeps every `workers`-th record.

    Attributes:
        worker: Number of the worker, from 0.
        workers: Number of workers.
    """

    worker: int = 0
    workers: int = 1


#: The share of a single worker.
EVERYTHING = Share()


def patterns_of(pattern: Pattern | Iterable[Pattern]) -> list[str]:
    """One pattern or several as a list of strings."""
    return [
        os.fspath(p) for p in ([pattern] if isinstance(pattern, str | os.PathLike) else pattern)
    ]


def record_files(pattern: Pattern | Iterable[Pattern]) -> list[str]:
    """The files that match, sorted; raises `LimamlError` if none does.

    A file that several patterns match occurs once, even if they write its folder differently.
    """
    patterns = patterns_of(pattern)
    files: dict[str, str] = {}
    for p in patterns:
        for file in tf.io.gfile.glob(p) if "://" in p else glob.glob(p):
            files.setdefault(file if "://" in p else os.path.abspath(file), file)
    if not files:
        raise LimamlError(f"no task records match {patterns}; `limaml prepare` writes them")
    folder = next((file for file in files.values() if os.path.isdir(file)), None)
    if folder is not None:
        raise LimamlError(
            f"{folder} is a folder: name the files of a split, such as "
            f"{os.path.join(folder, 'train-*')}, below the folder of a task definition"
        )
    return sorted(files.values())


def read_records(
    files: Sequence[str], share: Share = EVERYTHING, in_order: bool = True
) -> tf.data.Dataset:
    """Serialized records of the files: all, or those of a worker.

    Args:
        files: Paths of the files.
        share: The part of the records.
        in_order: Keep the order of the files; otherwise several are read in parallel.
    """
    split = len(files) >= share.workers
    worker_files = files[share.worker :: share.workers] if split else files
    count = 1 if in_order else reader_count(len(worker_files))
    records = records_of(worker_files, compression(files), count)
    return records if split else records.shard(share.workers, share.worker)


def reader_count(files: int) -> int:
    """Number of files to read in parallel, of `files` files."""
    return max(1, min(READERS, files))


def records_of(
    files: Sequence[str] | tf.Tensor, compression_type: str, readers: int = 1
) -> tf.data.Dataset:
    """Serialized records of the files, as `tf.data.TFRecordDataset` reads them.

    With several readers each reads its part of the files, and blocks of their records alternate:
    the order is the same on each machine.

    Args:
        files: Paths of the files, or a string tensor ``[n]``.
        compression_type: ``"GZIP"``, or ``""`` for files that are not compressed.
        readers: Number of files that are read in parallel.
    """
    if readers == 1:
        return _records_in_order(files, compression_type)
    blocks = [
        _records_in_order(files[reader::readers], compression_type).batch(_BLOCK).prefetch(1)
        for reader in range(readers)
    ]
    turns = tf.data.Dataset.range(readers).repeat()
    return tf.data.Dataset.choose_from_datasets(
        blocks, turns, stop_on_empty_dataset=False
    ).unbatch()


def _records_in_order(files: Sequence[str] | tf.Tensor, compression_type: str) -> tf.data.Dataset:
    # `tf.data.TFRecordDataset` traces a function that opens one file, again in each graph. The raw
    # operation reads any number of files without such a function.
    variant = tf.raw_ops.TFRecordDataset(
        filenames=files if tf.is_tensor(files) else list(files),
        compression_type=compression_type,
        buffer_size=_READ_BYTES,
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))


def compression(files: Sequence[str]) -> str:
    """The compression, for `TFRecordDataset`; raises `LimamlError` if only some files have one."""
    compressed = [file for file in files if file.endswith(".gz")]
    if compressed and len(compressed) < len(files):
        other = next(file for file in files if not file.endswith(".gz"))
        raise LimamlError(
            f"some of the record files are compressed and some are not, such as {compressed[0]} "
            f"and {other}; remove those of an earlier run"
        )
    return "GZIP" if compressed else ""


def plain_options() -> tf.data.Options:
    """Options that disable the autotuning and the graph rewrites of tf.data.

    There is nothing to tune, and `fit` would wait at the end of each epoch until the tuner wakes up
    again. The rewrites gain nothing here, and on nested datasets they crash the process with a
    segmentation fault when an iterator is created (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


def count_tasks(pattern: Pattern | Iterable[Pattern], share: Share = EVERYTHING) -> tuple[int, int]:
    """Number of tasks and of samples in the files that match, or in a worker's share of them.

    The records must contain their number of samples, as those of `limaml prepare` do.
    """
    entry = {record_format.SAMPLE_COUNT: tf.io.FixedLenFeature([], tf.int64, 1)}

    @tf.autograph.experimental.do_not_convert
    def samples(serialized: tf.Tensor) -> tf.Tensor:
        context, *_ = tf.io.parse_sequence_example(serialized, context_features=entry)
        return context[record_format.SAMPLE_COUNT]

    records = read_records(record_files(pattern), share, in_order=False)
    counts = records.batch(4096).map(samples)
    zero = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))

    @tf.autograph.experimental.do_not_convert
    def add(total: tuple[tf.Tensor, tf.Tensor], n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return total[0] + tf.size(n, tf.int64), total[1] + tf.reduce_sum(n)

    tasks, rows = counts.reduce(zero, add)
    return int(tasks), int(rows)
