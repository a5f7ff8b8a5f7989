"""The LMDB backend's writer: one environment for one generation."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import generation_rules, lmdb_environment, values
from tfrec_limaml.store.base import EventTimes, Generation, Matrix
from tfrec_limaml.store.erasure import ErasedFilter, Tombstones
from tfrec_limaml.store.file_locks import open_locked
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.lmdb_generations import lock_of
from tfrec_limaml.store.single_use import SingleUse


class LmdbWriter(SingleUse):
    """Writes one generation into its own environment; see `GenerationWriter`."""

    def __init__(
        self,
        path: Path,
        record: Record,
        tombstones: Tombstones,
        publish: Callable[[Record, EventTimes, Tombstones], None],
    ) -> None:
        self.identifier = record.identifier
        self._record = record
        self._publish = publish
        self._filter = ErasedFilter(tombstones)
        self._path = path
        self._lock_path = lock_of(self._path)
        self._lock: IO[str] | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(self._lock_path)
            shutil.rmtree(self._path, ignore_errors=True)
            self._environment = lmdb_environment.open_writable(self._path)
            # One transaction for the whole generation: each further commit would copy most pages of
            # the tree again.
            self._transaction = self._environment.begin(write=True)
        except (lmdb.Error, OSError) as error:
            self._release()
            raise StoreError(f"cannot write the store folder {path.parent}: {error}") from error
        self._open = True

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """See `GenerationWriter.put`; must be called in the thread that opened the generation.

        Batches of about ten thousand rows are the fastest.
        """
        self._check_open()
        encoded = values.encode_keys(keys)
        stored = values.encode_values(keys, encoded, embeddings, self._record)
        rows = self._filter.without_erased(encoded, stored)
        try:
            self._transaction.cursor().putmulti(sorted(rows.items(), key=lambda item: item[0]))
        except lmdb.Error as error:
            raise StoreError(
                f"cannot write generation {self.identifier!r} below {self._path.parent}: {error}"
            ) from error

    def publish(
        self, expected_count: int | None = None, event_times: EventTimes | None = None
    ) -> Generation:
        """See `GenerationWriter.publish`. All data are on disk before the pointer moves."""
        self._check_open()
        database = self._environment.open_db(txn=self._transaction)
        count = int(self._transaction.stat(database)["entries"])
        generation_rules.check_count(self.identifier, count, expected_count, self._filter.left_out)
        try:
            # Written last because it sorts last: keys in order fill the pages.
            self._transaction.put(values.HEADER, self._record.header)
            self._transaction.commit()
            self._environment.sync(True)
        except lmdb.Error as error:
            raise StoreError(
                f"cannot write generation {self.identifier!r} to disk: {error}"
            ) from error
        record = dataclasses.replace(self._record, count=count, published=time.time())
        self._environment.close()
        self._publish(record, event_times or self._filter.opening_times, self._filter.tombstones)
        self._release()
        return record.generation(current=True)

    def abort(self) -> None:
        """See `GenerationWriter.abort`."""
        if self._open:
            self._open = False
            self._transaction.abort()
            self._environment.close()
            shutil.rmtree(self._path, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        self._open = False
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            self._lock.close()
