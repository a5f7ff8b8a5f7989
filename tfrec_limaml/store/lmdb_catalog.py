"""The generations of a store folder, and the current ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb

from tfrec_limaml.errors import ErasedMeanwhileError, StoreError
from tfrec_limaml.store import generation_rules
from tfrec_limaml.store.catalog import Catalog
from tfrec_limaml.store.erasure import Tombstones, digests_of
from tfrec_limaml.store.generation_record import Record, record_of_pointer
from tfrec_limaml.store.lmdb_environment import Environments, explained, write_transaction

_CURRENT = "current/"
_RECORD = "record/"
_ERASED = b"erased/"
#: States of an unfinished and of a finished erasure of a key.
_PENDING, _DONE = b"pending", b"done"


class LmdbCatalog(Catalog):
    """Records and pointers in one small environment.

    Args:
        path: The catalog's folder, inside the store's folder.
        environments: The store's handles.
    """

    def __init__(self, path: Path, environments: Environments) -> None:
        self._path = path
        self._environments = environments

    def is_published(self, model_version: int, folder: str) -> bool:
        """Whether a folder has the data of a published generation."""
        return folder in {record.folder for record in self.records(model_version)}

    def current(self, model_version: int) -> Record | None:
        """The record that readers see; raises `StoreError` if it belongs to another version."""
        return record_of_pointer(self._read(_current_content, model_version), model_version)

    def records(self, model_version: int) -> list[Record]:
        """Published generations, oldest first."""
        entries = self._read(entries_under, _record_prefix(model_version)) or {}
        return [Record.from_bytes(content) for content in entries.values()]

    def all_records(self) -> list[Record]:
        """Published generations of every model version."""
        entries = self._read(entries_under, _RECORD.encode()) or {}
        return [Record.from_bytes(content) for content in entries.values()]

    def tombstones(self) -> Tombstones:
        """The keys that were erased."""
        entries = self._read(entries_under, _ERASED) or {}
        return Tombstones(name.removeprefix(_ERASED) for name in entries)

    def tombstones_of(self, keys: Sequence[bytes]) -> Tombstones:
        """The tombstones that include any of the given keys."""
        digests = {digest for key in keys for digest in digests_of(key)}

        def read(transaction: Any) -> list[bytes]:
            return [digest for digest in digests if transaction.get(_ERASED + digest) is not None]

        return Tombstones(self._read(read) or ())

    def begin_erasure(self, digests: Iterable[bytes]) -> None:
        """Writes tombstones, and makes readers of all generations check them."""
        with self.writing() as transaction:
            for digest in digests:
                transaction.put(_ERASED + digest, _PENDING)
            _set_erasing(transaction, True)

    def end_erasure(self, digests: Iterable[bytes]) -> None:
        """Finishes an erasure.

        While another one is unfinished, readers keep checking tombstones.
        """
        with self.writing() as transaction:
            for digest in digests:
                transaction.put(_ERASED + digest, _DONE)
            if _PENDING not in entries_under(transaction, _ERASED).values():
                _set_erasing(transaction, False)

    def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `work` in a transaction; None before the first generation."""
        try:
            catalog = self._environments.catalog(self._path, create=False)
            with catalog.begin() as transaction:
                return work(transaction, *arguments)
        except FileNotFoundError as error:
            if error.errno is None:  # there has been no generation yet
                return None
            raise StoreError(
                f"the store folder {self._path.parent} was removed: restore it, or publish again"
            ) from error
        except lmdb.ReadonlyError as error:
            raise StoreError(
                f"cannot read the catalog of the store {self._path.parent}: {error}; readers need "
                "permission to write its lock.mdb files too, or a read-only mount"
            ) from error
        except lmdb.MemoryError as error:
            raise StoreError(f"cannot map {self._path.parent}: {explained(error)}") from error
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"cannot read the catalog of the store {self._path.parent}: {error}; publish into "
                "a new folder"
            ) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """A write transaction; it is committed at the end of the ``with`` block."""
        try:
            catalog = self._environments.catalog(self._path, create=True)
            with write_transaction(catalog) as transaction:
                yield transaction
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"cannot write the catalog of the store {self._path.parent}: {explained(error)}"
            ) from error

    def publish(self, record: Record, erased: int) -> None:
        """Makes a finished generation current in one transaction, and drops the previous overlay.

        Raises:
            ErasedMeanwhileError: The number of tombstones is no longer `erased`.
        """
        with self.writing() as transaction:
            if len(entries_under(transaction, _ERASED)) != erased:
                raise ErasedMeanwhileError(
                    generation_rules.ERASED_MEANWHILE.format(record.identifier)
                )
            previous = _current_content(transaction, record.model_version)
            if previous is not None:
                _put(transaction, Record.from_bytes(previous).without_overlay())
            _put(transaction, record)
            transaction.put(_pointer(record.model_version), record.identifier.encode())

    def replace(self, record: Record) -> None:
        """Replaces a record; the caller holds the lock of the store's writers."""
        with self.writing() as transaction:
            _put(transaction, record)

    def change(
        self,
        model_version: int,
        current: str | None,
        changed: Iterable[Record],
        *,
        pointer: str | None = None,
        removed: Iterable[Record] = (),
    ) -> None:
        """Changes records and the pointer in one transaction, if `current` is still current.

        The pointer goes if the current generation is removed.
        """
        with self.writing() as transaction:
            pointer_value = transaction.get(_pointer(model_version))
            if pointer_value != (None if current is None else current.encode()):
                raise StoreError(
                    f"model version {model_version} was published or rolled back in the meantime; "
                    f"try again"
                )
            for record in changed:
                _put(transaction, record)
            for record in removed:
                transaction.delete(_record_key(model_version, record.identifier))
                if record.identifier == current:
                    transaction.delete(_pointer(model_version))
            if pointer is not None:
                transaction.put(_pointer(model_version), pointer.encode())


@functools.lru_cache(maxsize=256)
def _pointer(model_version: int) -> bytes:
    return f"{_CURRENT}{model_version}".encode()


def _current_content(transaction: Any, model_version: int) -> bytes | None:
    name = transaction.get(_pointer(model_version))
    if name is None:
        return None
    content: bytes | None = transaction.get(_record_prefix(model_version) + name)
    return content


@functools.lru_cache(maxsize=256)
def _record_prefix(model_version: int) -> bytes:
    return f"{_RECORD}{model_version}/".encode()


def _record_key(model_version: int, identifier: str) -> bytes:
    return _record_prefix(model_version) + identifier.encode()


def _put(transaction: Any, record: Record) -> None:
    transaction.put(_record_key(record.model_version, record.identifier), record.to_bytes())


def entries_under(transaction: Any, prefix: bytes) -> dict[bytes, bytes]:
    """All entries whose name begins with a prefix, in the order of names."""
    entries, cursor = {}, transaction.cursor()
    has_entry = cursor.set_range(prefix)
    while has_entry and cursor.key().startswith(prefix):
        entries[cursor.key()] = cursor.value()
        has_entry = cursor.next()
    return entries


def _set_erasing(transaction: Any, erasing: bool) -> None:
    for content in entries_under(transaction, _RECORD.encode()).values():
        _put(transaction, dataclasses.replace(Record.from_bytes(content), erasing=erasing))
