"""What updates have added since the nightly run: the rows of each touched task, in one small LMDB
environment below the work folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa

from tfrec_limaml.errors import LimamlError

_MAP_BYTES = 1 << 40  # address space, not disk space
#: Not UTF-8, so that it is no task key.
_SCHEMA = b"\xff"


class UpdateState:
    """Rows by task key.

    Args:
        folder: Of the environment; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(str(folder), map_size=_MAP_BYTES)
        except (lmdb.Error, OSError) as error:
            raise LimamlError(f"cannot open the state of updates {folder}: {error}") from error

    def of(self, keys: Sequence[str], schema: pa.Schema | None) -> list[pa.RecordBatch]:
        """The rows of those of some tasks that are there; none where they have another schema than
        the nightly run's, which a changed data schema means.
        """
        with self._environment.begin() as transaction:
            own = _schema_of(transaction)
            if own is None or (schema is not None and own != schema):
                return []
            found = (transaction.get(key.encode()) for key in keys)
            return [pa.ipc.read_record_batch(pa.py_buffer(v), own) for v in found if v is not None]

    def put(self, rows: Sequence[tuple[str, pa.RecordBatch]], schema: pa.Schema) -> None:
        """Replaces the rows of some tasks, all or none; what has another schema goes."""
        try:
            with self._environment.begin(write=True) as transaction:
                if _schema_of(transaction) != schema:
                    transaction.drop(self._environment.open_db(txn=transaction), delete=False)
                    transaction.put(_SCHEMA, schema.serialize().to_pybytes())
                for key, batch in rows:
                    transaction.put(key.encode(), batch.serialize().to_pybytes())
        except lmdb.Error as error:
            raise LimamlError(
                f"cannot write the state of updates {self._folder}: {error}"
            ) from error

    def tasks(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Every task with its rows."""
        with self._environment.begin() as transaction:
            schema = _schema_of(transaction)
            for key, value in transaction.cursor():
                if key != _SCHEMA:
                    yield key.decode(), pa.ipc.read_record_batch(pa.py_buffer(value), schema)

    def remove(self, keys: Sequence[str]) -> None:
        """Forgets tasks."""
        with self._environment.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key.encode())

    def write_anew_without(self, keys: Sequence[str]) -> None:
        """Forgets tasks, and leaves no byte of them in the file."""
        gone = {key.encode() for key in keys}
        with tempfile.TemporaryDirectory(dir=self._folder) as beside:
            target = lmdb.open(beside, map_size=_MAP_BYTES)
            with self._environment.begin() as reading, target.begin(write=True) as writing:
                for key, value in reading.cursor():
                    if key not in gone:
                        writing.put(key, value)
            target.sync(True)
            target.close()
            self._environment.close()
            Path(beside, "data.mdb").replace(self._folder / "data.mdb")
        self._environment = lmdb.open(str(self._folder), map_size=_MAP_BYTES)

    def close(self) -> None:
        """Lets go of the environment."""
        self._environment.close()


def _schema_of(transaction: Any) -> pa.Schema | None:
    content = transaction.get(_SCHEMA)
    return None if content is None else pa.ipc.read_schema(pa.py_buffer(content))
