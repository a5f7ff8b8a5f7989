"""Overlays of the LMDB backend: one environment per generation with upserts.

``<folder>/overlays/<version>/<identifier>~<token>/`` maps task keys to the entries of
`tfrec_limaml.store.overlay`. The generation's record has the token; folders without a record are
not read, and the next `remove_dead` removes them. One lock, ``<folder>/writers.lock``, is held
while overlays are written, pointers move or generations are rewritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import generation_rules, overlay
from tfrec_limaml.store.base import EventTimes, Upserted
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.file_locks import file_lock
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog
from tfrec_limaml.store.lmdb_environment import Environments
from tfrec_limaml.store.lmdb_overlay_reader import OverlayReader, entries_in, write

_BATCH = 10_000
_READERS = 8


class LmdbOverlays:
    """The overlays of one store folder.

    Args:
        folder: The store's folder.
        catalog: The store's catalog.
        environments: The store's handles.
    """

    def __init__(self, folder: Path, catalog: LmdbCatalog, environments: Environments) -> None:
        self._folder, self._catalog, self._environments = folder, catalog, environments
        self._readers: dict[tuple[int, str, int], OverlayReader] = {}

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A context that waits for the lock of the store's writers, and holds it."""
        try:
            with file_lock(self._folder / "writers.lock"):
                self._environments.follow(self._folder / "catalog")
                yield
        except (OSError, lmdb.Error) as error:
            raise StoreError(f"cannot write the store folder {self._folder}: {error}") from error

    def read(self, record: Record, keys: Sequence[bytes]) -> overlay.Entries:
        """The entries of the given keys in the overlay.

        Raises:
            OSError, lmdb.Error: The overlay is gone.
        """
        name = os.getpid(), record.overlay, self._environments.followed
        reader = self._readers.get(name)
        if reader is None:
            environment = self._environments.overlay(self.path(record), create=False)
            # One for each model version is enough; others are created on demand.
            self._readers = dict(list(self._readers.items())[-_READERS:])
            reader = self._readers[name] = OverlayReader(self.path(record), environment)
        return reader.read(keys)

    def entries(self, record: Record) -> overlay.Entries:
        """All entries."""
        if not record.overlay:
            return {}
        return entries_in(self._environments.overlay(self.path(record), create=False))

    def upsert(
        self,
        model_version: int,
        generation: str,
        keys: Sequence[str],
        vectors: npt.ArrayLike,
        event_times: Sequence[int],
    ) -> Upserted:
        """See `EmbeddingStore.upsert`."""
        with self.writing():
            record = generation_rules.check_upsert(
                self._catalog.current(model_version), generation, model_version
            )
            tombstones = self._catalog.tombstones()
            entries, counts = overlay.entries_of(keys, vectors, event_times, record, tombstones)
            if not record.overlay:
                self._create(record, entries)
                return counts
            environment = self._environments.overlay(self.path(record), create=False)
            with environment.begin() as transaction:
                stored = dict(zip(entries, map(transaction.get, entries), strict=True))
            entries, counts = overlay.newer_entries(entries, list(stored.values()), counts, record)
            write(
                self.path(record), environment, entries, (k for k in entries if stored[k] is None)
            )
        return counts

    def take_over(self, record: Record, event_times: EventTimes, tombstones: Tombstones) -> Record:
        """The record of a generation to publish, with an overlay of newer entries if there are any.

        They are the entries of the current overlay that are newer than the generation's data. The
        caller holds the lock.
        """
        current = self._catalog.current(record.model_version)
        if current is None or not current.overlay:
            return record
        entries = self.entries(current)
        entries = overlay.entries_to_take_over(entries, current, record, event_times, tombstones)
        return self.with_entries(record, entries)

    def with_entries(self, record: Record, entries: overlay.Entries) -> Record:
        """`record` with an overlay of these entries; without one if there are none."""
        if not entries:
            return record.without_overlay()
        record = dataclasses.replace(record, overlay=overlay.new_token())
        environment = self._environments.overlay(self.path(record), create=True)
        write(self.path(record), environment, entries, entries)
        return record

    def _create(self, record: Record, entries: overlay.Entries) -> None:
        """Creates an overlay; readers see it once the record has its token."""
        if entries:
            self._catalog.replace(self.with_entries(record, entries))

    def remove_dead(self, model_version: int) -> None:
        """Removes the overlays without a record; the caller holds the lock."""
        live = {self.path(r) for r in self._catalog.records(model_version) if r.overlay}
        for path in (self._folder / "overlays" / str(model_version)).glob("*"):
            if path not in live:
                shutil.rmtree(path, ignore_errors=True)

    def path(self, record: Record) -> Path:
        """Folder of a record's overlay."""
        name = f"{record.identifier}~{record.overlay}"
        return self._folder / "overlays" / str(record.model_version) / name


def copy_without(source: Any, target: Any, is_erased: Callable[[bytes], bool]) -> None:
    """Copies a generation's environment, in order, without erased keys."""
    batch: list[tuple[bytes, bytes]] = []
    with source.begin() as reading, target.begin(write=True) as writing:
        cursor = writing.cursor()
        for key, value in reading.cursor():
            if is_erased(key):
                continue
            batch.append((key, value))
            if len(batch) == _BATCH:
                cursor.putmulti(batch, append=True)
                batch = []
        cursor.putmulti(batch, append=True)
