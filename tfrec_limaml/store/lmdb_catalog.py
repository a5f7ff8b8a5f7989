"""Which generations a store folder holds, and which one is current."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import common
from tfrec_limaml.store.lmdb_environment import Environments

_CURRENT = "current/"
_RECORD = "record/"


class LmdbCatalog:
    """Records and pointers in one small environment.

    Args:
        path: Its folder, inside the store's.
        environments: Open it.
    """

    def __init__(self, path: Path, environments: Environments) -> None:
        self._path = path
        self._environments = environments

    def is_published(self, model_version: int, identifier: str) -> bool:
        """Whether a generation was published."""
        name = _record_key(model_version, identifier)
        return self._read(lambda transaction: transaction.get(name)) is not None

    def current(self, model_version: int) -> common.Record | None:
        """The record that readers see; raises `StoreError` where it is another version's."""
        content = self._read(_pointed_to, model_version)
        return (
            None
            if content is None
            else common.Record.from_bytes(content).check_version(model_version)
        )

    def current_name(self, model_version: int) -> str | None:
        """The identifier of the current generation."""
        record = self.current(model_version)
        return None if record is None else record.identifier

    def records(self, model_version: int) -> list[common.Record]:
        """Published generations, oldest first."""
        prefix = _record_prefix(model_version)

        def read(transaction: Any) -> list[bytes]:
            found, cursor = [], transaction.cursor()
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append(cursor.value())
                more = cursor.next()
            return found

        return [common.Record.from_bytes(content) for content in self._read(read) or ()]

    def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `work` in a transaction on the catalog; None before the first
        generation.
        """
        try:
            catalog = self._environments.catalog(self._path, create=False)
            with catalog.begin() as transaction:
                return work(transaction, *arguments)
        except FileNotFoundError:
            return None
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"cannot read the catalog of the store {self._path.parent}: {error}; publish into "
                "a new folder"
            ) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """A write transaction; it is committed at the end of the ``with`` block."""
        try:
            with self._environments.catalog(self._path, create=True).begin(
                write=True
            ) as transaction:
                yield transaction
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"cannot write the catalog of the store {self._path.parent}: {error}"
            ) from error

    def publish(self, record: common.Record) -> None:
        """Makes a finished generation current in one transaction on the catalog."""
        with self.writing() as transaction:
            transaction.put(_record_key(record.model_version, record.identifier), record.to_bytes())
            transaction.put(_pointer(record.model_version), record.identifier.encode())

    def change(
        self,
        model_version: int,
        current: str | None,
        changed: Iterable[common.Record],
        *,
        pointer: str | None = None,
        removed: Iterable[common.Record] = (),
    ) -> None:
        """Writes, points to and removes records in one transaction, if `current` still is."""
        with self.writing() as transaction:
            held = transaction.get(_pointer(model_version))
            if held != (None if current is None else current.encode()):
                raise StoreError(
                    f"model version {model_version} was published or rolled back meanwhile; try "
                    "again"
                )
            for record in changed:
                transaction.put(_record_key(model_version, record.identifier), record.to_bytes())
            for record in removed:
                transaction.delete(_record_key(model_version, record.identifier))
            if pointer is not None:
                transaction.put(_pointer(model_version), pointer.encode())


@functools.lru_cache(maxsize=256)
def _pointer(model_version: int) -> bytes:
    return f"{_CURRENT}{model_version}".encode()


def _pointed_to(transaction: Any, model_version: int) -> bytes | None:
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
