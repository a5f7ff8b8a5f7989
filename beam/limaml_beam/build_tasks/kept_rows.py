"""The rows of each recent record, kept beside the records for `limaml update`.

``<tasks>/<definition>/rows-<shard>.arrow`` is an uncompressed Arrow file, one record batch per
chunk of whole tasks; ``rows-<shard>.npy`` has the position of each task, sorted by the hash of its
key. Both are memory-mapped: the cost of reading a task does not depend on the number of tasks. The
shard of a task is that of its record.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from limaml_beam.io import files
from limaml_beam.io.staged_output import staged_file
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK
from tfrec_limaml.arrays import Integers
from tfrec_limaml.errors import LimamlError

#: Hash of the key, record batch, first row in it, number of rows.
_ENTRY = np.dtype([("hash", "<u8"), ("batch", "<u4"), ("start", "<u4"), ("rows", "<u4")])


class KeptRowsWriter:
    """Writes the rows of one shard.

    Args:
        sink: Receives the Arrow file.
    """

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._writer: Any = None
        self._entries: list[Any] = []

    def add(self, table: pa.Table, keys: pa.Array, starts: Integers, stops: Integers) -> None:
        """Adds the rows of some records: `keys` ``[records]``, rows from `starts` to `stops`."""
        counts = stops - starts
        first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        indices = np.repeat(starts - first, counts) + np.arange(counts.sum())
        rows = decode_dictionaries(table.take(pa.array(indices))).combine_chunks()
        if not rows.num_rows:
            return
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._sink, rows.schema)
        entries = np.empty(len(keys), _ENTRY)
        entries["hash"], entries["batch"] = columnar.stable_hash(keys), len(self._entries)
        entries["start"], entries["rows"] = first, counts
        self._entries.append(entries)
        self._writer.write_batch(rows.to_batches()[0])

    def close(self) -> Any:
        """Ends the Arrow file; returns the index entries of its tasks, None without tasks."""
        if self._writer is None:
            return None
        self._writer.close()
        entries = np.concatenate(self._entries)
        return entries[np.argsort(entries["hash"], kind="stable")]


@contextlib.contextmanager
def writing(path: str) -> Iterator[KeptRowsWriter]:
    """A writer of ``<path>.arrow`` and ``<path>.npy``."""
    with staged_file(f"{path}.arrow") as sink:
        writer = KeptRowsWriter(sink)
        yield writer
        entries = writer.close()
    with staged_file(f"{path}.npy") as index:
        np.save(index, np.empty(0, _ENTRY) if entries is None else entries)


def has_index_of(path: str, rows: int) -> bool:
    """Whether ``<path>.npy`` indexes this number of rows.

    It does not if a process was killed after it replaced ``<path>.arrow``. Nothing else changes one
    of the two files, and it leaves out rows.
    """
    with files.open_binary(f"{path}.npy") as file:
        return int(np.load(io.BytesIO(file.read()))["rows"].sum()) == rows


def _check_index(path: Path) -> None:
    """Raises `LimamlError` if ``<path>.npy`` is not the index of ``<path>.arrow``."""
    found = [os.stat(f"{path}.{ending}") for ending in ("arrow", "npy")]
    if not _is_indexed(path, tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in found)):
        raise LimamlError(
            f"{path}.npy is not the index of {path}.arrow: an erasure was killed between the two; "
            "run the same `limaml erase` again, or `limaml refresh --keep-rows`"
        )


@functools.lru_cache(maxsize=4096)
def _is_indexed(path: Path, identity: tuple[tuple[int, int, int], ...]) -> bool:
    """Whether a shard's two files belong together; asked once for the files of an identity."""
    rows = 0
    if Path(f"{path}.arrow").stat().st_size:
        with pa.memory_map(f"{path}.arrow") as source:
            reader = pa.ipc.open_file(source)
            rows = sum(len(reader.get_batch(i)) for i in range(reader.num_record_batches))
    return has_index_of(str(path), rows)


def shard_path(shard: int) -> str:
    """Name of a shard's files, without the extension."""
    return f"rows-{shard:05d}"


def decode_dictionaries(table: pa.Table) -> pa.Table:
    """A table without dictionary columns."""
    for position, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table[field.name].cast(field.type.value_type)
            table = table.set_column(position, field.name, column)
    return table


class KeptRows:
    """The kept rows of a local folder of task records.

    Args:
        folder: ``<tasks>/<definition>``.
        shards: Number of shards of the records.

    Raises:
        LimamlError: The folder holds no rows.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        self._folder, self._shards = folder, shards
        if not any(folder.glob("rows-*.npy")):
            raise LimamlError(
                f"{folder} has no rows beside its records: run `limaml refresh --keep-rows`, and "
                "give --keep-rows to every later refresh"
            )

    def read(self, keys: Sequence[str]) -> list[pa.RecordBatch]:
        """The rows of the given tasks that exist, one record batch per task.

        Raises:
            LimamlError: An erasure was killed between the two files of a shard.
        """
        hashes = columnar.stable_hash(pa.array(keys, pa.string()))
        shard_of = (hashes % np.uint64(self._shards)).astype(np.int64)
        tables = []
        for shard in np.unique(shard_of).tolist():
            positions = np.flatnonzero(shard_of == shard)
            tables += self._in_shard(
                shard, [keys[i] for i in positions.tolist()], hashes[positions]
            )
        return tables

    def _in_shard(self, shard: int, keys: list[str], hashes: Any) -> list[pa.RecordBatch]:
        path = self._folder / shard_path(shard)
        if not Path(f"{path}.npy").exists():
            return []  # no task fell into this shard
        _check_index(path)
        entries = np.load(f"{path}.npy", mmap_mode="r")
        if not len(entries):
            return []
        tables = []
        with pa.memory_map(f"{path}.arrow") as source:
            reader = pa.ipc.open_file(source)
            batches: dict[int, pa.RecordBatch] = {}
            positions = np.searchsorted(entries["hash"], hashes)
            for key, key_hash, position in zip(keys, hashes, positions.tolist(), strict=True):
                while position < len(entries) and entries[position]["hash"] == key_hash:
                    number, start, rows = entries[position].tolist()[1:]
                    if number not in batches:
                        batches[number] = reader.get_batch(number)
                    rows_of_task = batches[number].slice(start, rows)
                    if rows_of_task[TASK][0].as_py() == key:
                        tables.append(rows_of_task)
                    position += 1
        return tables
