"""Erasure in the LMDB backend: rewrites generations and overlays without the keys.

Tombstones come first, and every generation's record makes readers check them. Then one generation
after another is copied to a new folder, its record is changed to the new folder, and the old one is
removed. Finally the state of the tombstones changes to finished. If the process is killed, or a
generation cannot be read, readers keep checking tombstones; the next erasure of the same keys
completes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import lmdb_environment, overlay
from tfrec_limaml.store.base import Place
from tfrec_limaml.store.erasure import (
    all_matching,
    encode_distinct,
    is_erased,
    key_digest,
    nested_prefix,
)
from tfrec_limaml.store.file_locks import file_lock, open_locked
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog, entries_under
from tfrec_limaml.store.lmdb_generations import LmdbGenerations, lock_of
from tfrec_limaml.store.lmdb_overlay import LmdbOverlays, copy_without

_Result = TypeVar("_Result")


class LmdbErasure:
    """Erases keys from one store folder.

    Args:
        folder: The store's folder.
        catalog: The store's catalog.
        overlays: The store's overlays.
        generations: The data of the store's generations.
    """

    def __init__(
        self,
        folder: Path,
        catalog: LmdbCatalog,
        overlays: LmdbOverlays,
        generations: LmdbGenerations,
    ) -> None:
        self._folder, self._catalog = folder, catalog
        self._overlays, self._generations = overlays, generations

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.erase`.

        Raises:
            StoreError: A generation cannot be read or written; the tombstones hide the keys.
        """
        encoded_keys = encode_distinct(keys)
        digests = list(map(key_digest, encoded_keys))
        with self.held_off():  # one erasure at a time
            # Under the lock, so that no record is written back without `erasing`.
            with self._overlays.writing():
                self._catalog.begin_erasure(digests)
            places = []
            for record in self._catalog.all_records():
                places += self._rewrite(record, encoded_keys)
            with self._overlays.writing():
                self._catalog.end_erasure(digests)
        return places

    def held_off(self) -> contextlib.AbstractContextManager[None]:
        """A context in which no other erasure begins; waits for a running one."""
        return file_lock(self._folder / "erasure.lock")

    def search(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.search`."""
        encoded_keys = encode_distinct(keys)

        def places_in(record: Record) -> list[Place]:
            return self._places(record, self._keys_in_data(record, encoded_keys), encoded_keys)

        found = (self._in_latest(record, places_in) for record in self._catalog.all_records())
        return [place for places in found for place in places or ()]

    def _in_latest(self, record: Record, read: Callable[[Record], _Result]) -> _Result | None:
        """The result of `read` for a record, as another process may have changed it meanwhile.

        Returns:
            None if the generation was pruned.

        Raises:
            StoreError: A published generation cannot be read.
        """
        while True:
            try:
                return read(record)
            except (OSError, lmdb.Error) as error:
                latest = self._latest(record)
                if latest is None:
                    return None
                if (latest.folder, latest.overlay) == (record.folder, record.overlay):
                    path, reason = self._generations.path(record), _with_remedy(error, record)
                    raise StoreError(
                        f"cannot search {path}: {reason}; then run the same command again"
                    ) from error
                record = latest

    def _latest(self, record: Record) -> Record | None:
        """The generation's record as it is now; None if the generation was pruned."""
        records = self._catalog.records(record.model_version)
        return next((r for r in records if r.identifier == record.identifier), None)

    def _rewrite(self, record: Record, encoded_keys: list[bytes]) -> list[Place]:
        """Rewrites one generation if it holds any of the keys."""
        in_data = self._in_latest(record, lambda r: self._keys_in_data(r, encoded_keys))
        if in_data is None:
            return []
        if not in_data:
            return self._switch(record, record, in_data, encoded_keys)
        copied_record = dataclasses.replace(record, data=overlay.new_token())
        path = self._generations.path(copied_record)
        lock = lock_of(path)
        try:
            # With the lock, `LmdbStore` does not treat the folder as that of a dead writer.
            with open_locked(lock):
                self._copy(record, path, encoded_keys)
                places = self._switch(record, copied_record, in_data, encoded_keys)
                lock.unlink()
        except (OSError, lmdb.Error) as error:
            raise StoreError(
                f"cannot write {path}: {error}; erase the same keys again to complete it"
            ) from error
        self._remove(self._generations.path(record))
        return places

    def _remove(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            pass  # pruned in the meantime
        except OSError as error:
            raise StoreError(
                f"cannot remove {path}, which still has the erased vectors: {error}; remove it "
                "yourself, then erase the same keys again"
            ) from error

    def _copy(self, record: Record, path: Path, encoded_keys: list[bytes]) -> None:
        """Copies a generation's data without the keys, and syncs them to disk."""
        environment = lmdb_environment.open_writable(path)
        try:
            erased = functools.partial(is_erased, erased=frozenset(encoded_keys))
            copy_without(self._generations.open(record), environment, erased)
            environment.sync(True)
        finally:
            environment.close()

    def _switch(
        self, record: Record, copied_record: Record, in_data: set[bytes], encoded_keys: list[bytes]
    ) -> list[Place]:
        """Changes a generation's record to the copied data and an overlay without the keys."""
        with self._overlays.writing():
            latest = self._latest(record)
            if latest is None:
                return []
            places = self._in_latest(latest, lambda r: self._places(r, in_data, encoded_keys))
            if places:
                changed_record = dataclasses.replace(
                    latest, data=copied_record.data, count=latest.count - len(in_data)
                )
                if any(place.part == "overlay" for place in places):
                    erased, entries = frozenset(encoded_keys), self._overlays.entries(latest)
                    remaining = {
                        k: entry for k, entry in entries.items() if not is_erased(k, erased)
                    }
                    changed_record = self._overlays.with_entries(changed_record, remaining)
                self._catalog.replace(changed_record)
                self._overlays.remove_dead(record.model_version)
        return places or []

    def _keys_in_data(self, record: Record, encoded_keys: list[bytes]) -> set[bytes]:
        with self._generations.open(record).begin() as transaction:
            return {key for erased in encoded_keys for key in _stored_keys_of(transaction, erased)}

    def _places(
        self, record: Record, in_data: set[bytes], encoded_keys: list[bytes]
    ) -> list[Place]:
        erased = frozenset(encoded_keys)
        in_overlay = {key for key in self._overlays.entries(record) if is_erased(key, erased)}
        return [
            Place(
                model_version=record.model_version,
                generation=record.identifier,
                part=part,
                keys=len(stored),
                matched=all_matching(stored, erased),
            )
            for part, stored in (("data", in_data), ("overlay", in_overlay))
            if stored
        ]


def _with_remedy(error: BaseException, record: Record) -> str:
    if isinstance(error, lmdb.MemoryError):
        return lmdb_environment.explained(error)
    return (
        f"{error}; restore it from a copy, or remove generation {record.identifier!r}: limaml "
        "store condemn, then prune with --grace-seconds 0 (publish again first if it is current)"
    )


def _stored_keys_of(transaction: Any, key: bytes) -> list[bytes]:
    """The stored keys that an erased key includes."""
    keys = [] if transaction.get(key) is None else [key]
    return [*keys, *entries_under(transaction, nested_prefix(key))]
