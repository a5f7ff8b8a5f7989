"""The rows of updated tasks since the nightly run, in an LMDB environment of the work folder.

Keys are those of a store, so that one environment holds tasks of two definitions. It also holds the
times at which tasks lose their next row because it leaves the window: finding the tasks that are
due reads only these. An outdated entry does no harm: its task is adapted once more. With two
definitions, it holds the offsets of the earlier turns too
(`limaml_beam.generate_embeddings.turns`).
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK, TIME
from limaml_beam.update.state_entries import (
    LEAVING,
    SCHEMA,
    is_task,
    leaving,
    prefix_of,
    schema_key,
    time_key,
    turn_entries,
    turn_key,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store.erasure import key_digest
from tfrec_limaml.store.lmdb_environment import reserve_lock_file

#: An embedding ``[D]``.
Offset: TypeAlias = npt.NDArray[np.float32]

_MAP_BYTES = 1 << 40  # address space, not disk space
_REWRITTEN = "rewritten-"  # folders of environments that are to replace this one


def state_folder(work: Path) -> Path:
    """Folder of the state in a work folder."""
    return work / "updates" / "rows"


class UpdateState:
    """Rows by task key.

    Args:
        folder: Folder of the environment; created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(folder)
            reserve_lock_file(folder)
            self._environment = lmdb.open(str(folder), map_size=_MAP_BYTES)
        except (lmdb.Error, OSError) as error:
            raise LimamlError(
                f"cannot open the state of updates {folder}: {error}; if the disk is not full, "
                "remove this folder (updates since the last refresh are then repeated by the next)"
            ) from error

    def read(
        self, keys: Sequence[str], schema: pa.Schema | None, prefix: str = ""
    ) -> list[pa.RecordBatch]:
        """The rows of the given tasks, as far as they exist.

        None are returned if their columns differ from the nightly run's: the data schema has
        changed.

        Args:
            keys: Task keys of one definition.
            schema: The nightly run's; None if it has none of these tasks.
            prefix: The prefix of the definition's keys in a store.
        """
        with self._environment.begin() as transaction:
            stored_schema = _schema_of(transaction, prefix)
            if stored_schema is None or (schema is not None and stored_schema != schema):
                return []
            values = (transaction.get(f"{prefix}{key}".encode()) for key in keys)
            return [
                pa.ipc.read_record_batch(pa.py_buffer(v), stored_schema)
                for v in values
                if v is not None
            ]

    def put(
        self,
        tables: Mapping[str, pa.Table],
        window_start: int,
        turns: Mapping[int, Mapping[str, Offset]] | None = None,
    ) -> None:
        """Replaces the rows of some tasks, all or none; rows of another schema are removed.

        Args:
            tables: Rows sorted by task, by the prefix of their definition's keys in a store.
            window_start: The tasks were adapted to rows from this time on. Tasks due before it are
                not due any more.
            turns: Offsets of the tasks in each earlier turn, by key in a store.
        """
        try:
            with self._environment.begin(write=True) as transaction:
                schemas = {prefix: table.schema for prefix, table in tables.items()}
                stored_schemas = {prefix: _schema_of(transaction, prefix) for prefix in schemas}
                if any(
                    stored_schemas[p] is not None and stored_schemas[p] != s
                    for p, s in schemas.items()
                ):
                    transaction.drop(self._environment.open_db(txn=transaction), delete=False)
                for prefix, schema in schemas.items():
                    transaction.put(schema_key(prefix), schema.serialize().to_pybytes())
                for entry, _ in list(leaving(transaction, window_start)):
                    transaction.delete(entry)
                for prefix, table in tables.items():
                    for key, batch in _by_task(table):
                        _put(transaction, f"{prefix}{key}".encode(), batch, window_start)
                for turn, offsets in (turns or {}).items():
                    for key, offset in offsets.items():
                        transaction.put(turn_key(turn, key.encode()), offset.tobytes())
        except lmdb.Error as error:
            raise LimamlError(
                f"cannot write the state of updates {self._folder}: {error}"
            ) from error

    def due(self, window_start: int) -> list[str]:
        """Keys (as in a store) of tasks that lost a row since they were adapted.

        The row was in the window then, and is before it now.
        """
        with self._environment.begin() as transaction:
            due_keys = dict.fromkeys(key for _, key in leaving(transaction, window_start))
            return [key.decode() for key in due_keys if transaction.get(key) is not None]

    def turn(self, turn: int, keys: Sequence[str]) -> dict[str, Offset]:
        """Offsets ``[D]`` of an earlier turn of the given tasks, by their keys in a store.

        Tasks without an offset are left out.
        """
        with self._environment.begin() as transaction:
            values = ((key, transaction.get(turn_key(turn, key.encode()))) for key in keys)
            return {key: np.frombuffer(v, np.float32) for key, v in values if v is not None}

    def tasks(self, prefix: str = "") -> dict[str, pa.RecordBatch]:
        """Every task of a definition with its rows, by key without `prefix`."""
        with self._environment.begin() as transaction:
            schema = _schema_of(transaction, prefix)
            return {
                key.decode().removeprefix(prefix): pa.ipc.read_record_batch(
                    pa.py_buffer(value), schema
                )
                for key, value in transaction.cursor()
                if is_task(key) and prefix_of(key.decode()) == prefix
            }

    def remove(self, keys: Sequence[str]) -> None:
        """Removes tasks, by their keys in a store."""
        digests = {key_digest(key) for key in keys}
        with self._environment.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key.encode())
            for entry in turn_entries(transaction, digests):
                transaction.delete(entry)

    def prefixes(self) -> list[str]:
        """The key prefixes of the definitions that have rows here."""
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            any_schema = cursor.set_range(SCHEMA)
            keys = [key for key, _ in cursor] if any_schema else []
        return [key.removeprefix(SCHEMA).decode() for key in keys]

    def rewrite(self, replacements: Mapping[str, pa.RecordBatch | None]) -> None:
        """Replaces the rows of some tasks with others or none, by their keys in a store.

        No byte of the old rows stays in the file.
        """
        batches = {key.encode(): batch for key, batch in replacements.items()}
        erased = {key for key, batch in batches.items() if batch is None}
        digests = {key_digest(key) for key in erased}
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_REWRITTEN) as temporary:
            target = lmdb.open(temporary, map_size=_MAP_BYTES)
            with self._environment.begin() as reading, target.begin(write=True) as writing:
                schemas = {prefix: _schema_of(reading, prefix) for prefix in self.prefixes()}
                excluded = erased | set(turn_entries(reading, digests))
                for key, value in reading.cursor():
                    task = value if key.startswith(LEAVING) else key
                    if key in excluded or task in erased or reading.get(task) is None:
                        continue
                    if is_task(key):  # encoded again: earlier versions kept neighbours' bytes
                        rows = batches.get(key)
                        if rows is None:
                            schema = schemas[prefix_of(key.decode())]
                            rows = pa.ipc.read_record_batch(pa.py_buffer(value), schema)
                        value = _encoded(rows)
                    writing.put(key, value)
            target.sync(True)
            target.close()
            self._environment.close()
            Path(temporary, "data.mdb").replace(self._folder / "data.mdb")
        self._environment = lmdb.open(str(self._folder), map_size=_MAP_BYTES)

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left.

    These are environments that did not replace this one, and a file that is shorter than the two
    pages it begins with: it never held a row.
    """
    for rewritten in folder.glob(f"{_REWRITTEN}*"):
        shutil.rmtree(rewritten)
    file = folder / "data.mdb"
    if file.is_file() and file.stat().st_size < 2 * mmap.PAGESIZE:
        file.unlink()


def _encoded(batch: pa.RecordBatch) -> bytes:
    """The rows as Arrow IPC; a copy, because the buffers of a slice hold bytes of other rows."""
    rows = batch.take(pa.array(np.arange(batch.num_rows)))
    return bytes(rows.serialize().to_pybytes())


def _put(transaction: Any, key: bytes, batch: pa.RecordBatch, window_start: int) -> None:
    transaction.put(key, _encoded(batch))
    times = columnar.to_numpy(batch[TIME])
    times = times[times >= window_start]
    if len(times):
        transaction.put(time_key(int(times.min())) + key_digest(key), key)


def _by_task(table: pa.Table) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each task of a sorted table."""
    if not table.num_rows:
        return
    batch = table.combine_chunks().to_batches()[0]
    codes, keys = columnar.codes_of(batch[TASK])
    edges = np.searchsorted(codes, np.arange(len(keys) + 1)).tolist()
    for key, start, stop in zip(keys.to_pylist(), edges[:-1], edges[1:], strict=True):
        yield key, batch.slice(start, stop - start)


def _schema_of(transaction: Any, prefix: str) -> pa.Schema | None:
    content = transaction.get(schema_key(prefix))
    return None if content is None else pa.ipc.read_schema(pa.py_buffer(content))
