"""Erasure in the LMDB backend: rewrites generations and overlays without the keys.

Tombstones come first, and every generation's record makes readers check them. Then one generation
after another is copied to a new folder, its record is changed to the new folder, and the old one is
removed. Finally the state of the tombstones changes to finished. If the process is killed, readers
keep checking tombstones; the next erasure of the same keys completes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import lmdb_environment
from tfrec_limaml.store.base import Place
from tfrec_limaml.store.erasure import is_erased, key_digest, nested_prefix, to_erase
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog
from tfrec_limaml.store.lmdb_overlay import (
    LmdbOverlays,
    copy_without,
    holding,
    new_token,
    without,
)
from tfrec_limaml.store.lmdb_writer import open_locked


class LmdbErasure:
    """Erases keys from one store folder.

    Args:
        folder: The store's.
        catalog: Its catalog.
        environments: The store's handles.
        overlays: Its overlays.
        data_of: Opens the data of a generation.
    """

    def __init__(
        self,
        folder: Path,
        catalog: LmdbCatalog,
        environments: lmdb_environment.Environments,
        overlays: LmdbOverlays,
        data_of: Callable[[Record], Any],
    ) -> None:
        self._folder, self._catalog, self._environments = folder, catalog, environments
        self._overlays, self._data_of = overlays, data_of

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.erase`."""
        wanted = to_erase(keys)
        digests = list(map(key_digest, wanted))
        with holding(self._folder / "erasure.lock"):  # one erasure at a time
            # Under the lock, so that no record is written back without `erasing`.
            with self._overlays.writing():
                self._catalog.begin_erasure(digests)
            places = []
            for record in self._catalog.all_records():
                places += self._rewrite(record, wanted)
            with self._overlays.writing():
                self._catalog.end_erasure(digests)
        return places

    def search(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.search`."""
        wanted = to_erase(keys)
        places = []
        for record in self._catalog.all_records():
            with contextlib.suppress(FileNotFoundError, lmdb.Error):
                places += self._places(record, self._in_data(record, wanted), wanted)
        return places

    def _rewrite(self, record: Record, wanted: list[bytes]) -> list[Place]:
        """Rewrites one generation if it holds any of the keys."""
        try:
            in_data = self._in_data(record, wanted)
        except (FileNotFoundError, lmdb.Error):
            in_data = 0  # its data were removed or pruned in the meantime
        if not in_data:
            return self._switch(record, record, 0, wanted)
        copied = dataclasses.replace(record, data=new_token())
        path = self._path(copied)
        lock = Path(f"{path}.lock")
        try:
            # Held, so that `LmdbStore` does not treat the folder as that of a dead writer.
            with open_locked(lock, "a"):
                self._copy(record, path, wanted)
                places = self._switch(record, copied, in_data, wanted)
                lock.unlink()
        except (OSError, lmdb.Error) as error:
            raise StoreError(
                f"cannot write {path}: {error}; erase the same keys again to complete it"
            ) from error
        shutil.rmtree(self._path(record), ignore_errors=True)
        return places

    def _copy(self, record: Record, path: Path, wanted: list[bytes]) -> None:
        """Copies a generation's data without the keys, and syncs them to disk."""
        environment = lmdb_environment.open_writable(path)
        try:
            erased = functools.partial(is_erased, erased=frozenset(wanted))
            copy_without(self._data_of(record), environment, erased)
            environment.sync(True)
        finally:
            environment.close()

    def _switch(
        self, record: Record, copied: Record, in_data: int, wanted: list[bytes]
    ) -> list[Place]:
        """Changes a generation's record to the copied data and an overlay without the keys."""
        with self._overlays.writing():
            records = self._catalog.records(record.model_version)
            latest = next((r for r in records if r.identifier == record.identifier), None)
            if latest is None:
                return []
            places = self._places(latest, in_data, wanted)
            if places:
                changed = dataclasses.replace(
                    latest, data=copied.data, count=latest.count - in_data
                )
                if any(place.part == "overlay" for place in places):
                    erased = functools.partial(is_erased, erased=frozenset(wanted))
                    kept = without(self._overlays.entries(latest), erased)
                    changed = self._overlays.with_entries(changed, kept)
                self._catalog.replace(changed)
                self._overlays.remove_dead(record.model_version)
        return places

    def _in_data(self, record: Record, wanted: list[bytes]) -> int:
        with self._data_of(record).begin() as transaction:
            cursor = transaction.cursor()
            return len({key for each in wanted for key in _stored_keys_of(cursor, each)})

    def _places(self, record: Record, in_data: int, wanted: list[bytes]) -> list[Place]:
        erased = frozenset(wanted)
        entries = self._overlays.entries(record)
        counts = {"data": in_data, "overlay": sum(is_erased(key, erased) for key in entries)}
        return [
            Place(
                model_version=record.model_version,
                generation=record.identifier,
                part=part,
                keys=count,
            )
            for part, count in counts.items()
            if count
        ]

    def _path(self, record: Record) -> Path:
        return self._folder / str(record.model_version) / record.folder


def _stored_keys_of(cursor: Any, key: bytes) -> list[bytes]:
    """The stored keys that an erased key includes."""
    keys = [key] if cursor.set_key(key) else []
    prefix = nested_prefix(key)
    more = cursor.set_range(prefix)
    while more and cursor.key().startswith(prefix):
        keys.append(cursor.key())
        more = cursor.next()
    return keys
