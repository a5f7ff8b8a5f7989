"""The LMDB backend: a folder, no server.

Layout::

    <folder>/catalog/                        LMDB: records of published generations, one pointer per
    model version <folder>/<version>/<identifier>/         LMDB: task key -> vector; immutable once
    published <folder>/<version>/<identifier>.lock     held (flock) by a living writer, so that a
    dead one's remains are recognised

A generation becomes visible by one write transaction on the catalog. Its own environment never
changes afterwards, so readers open it without locks, one `get_many` reads one generation, and
removing it gives its disk space back at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import common, lmdb_environment
from tfrec_limaml.store.base import Generation, Mask, Matrix

_CURRENT = "current/"
_RECORD = "record/"


class LmdbStore:
    """Embedding store in a folder; see the module's text.

    Args:
        folder: Created when the first generation is written.
        dtype: ``"float32"`` or ``"float16"`` for generations written from now on.
    """

    def __init__(self, folder: str | Path, dtype: str = "float32") -> None:
        self.folder = Path(folder).absolute()
        self.dtype = common.check_dtype(dtype)
        self._catalog = self.folder / "catalog"
        self._environments = lmdb_environment.Environments()

    def get_many(self, keys: Sequence[str], model_version: int) -> tuple[Matrix, Mask]:
        """See `EmbeddingStore.get_many`."""
        encoded = common.encode_keys(keys)
        for _ in range(
            3
        ):  # a generation pruned between the pointer's read and the opening is looked up again
            record = self._current(model_version)
            if record is None:
                return common.nothing_found(len(keys))
            with contextlib.suppress(FileNotFoundError, lmdb.Error):
                environment = self._environments.immutable(
                    self._path(model_version, record.identifier)
                )
                with environment.begin() as transaction:
                    values = list(map(transaction.get, encoded))
                return common.decode_values(values, record)
        raise StoreError(
            f"the current generation of model version {model_version} in {self.folder} is "
            "damaged: roll back, or publish anew"
        )

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None
    ) -> LmdbWriter:
        """See `EmbeddingStore.new_generation`; refused while a living writer holds the same
        identifier.
        """
        if model_version < 1 or embedding_dim < 1:
            raise StoreError(
                f"model_version and embedding_dim must be positive, received {model_version} and "
                f"{embedding_dim}"
            )
        self._remove_dead(model_version)
        name = common.choose_identifier(
            identifier, [r.identifier for r in self._records(model_version)]
        )
        return LmdbWriter(self, model_version, embedding_dim, name)

    def current(self, model_version: int) -> Generation | None:
        """See `EmbeddingStore.current`."""
        record = self._current(model_version)
        return None if record is None else record.generation(current=True)

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """See `EmbeddingStore.generations`; unpublished ones of living writers are not listed."""
        versions = self._versions() if model_version is None else [model_version]
        listed = []
        for version in versions:
            current = self._current(version)
            listed += [
                r.generation(current is not None and r.identifier == current.identifier)
                for r in self._records(version)
            ]
        return listed

    def rollback(self, model_version: int, identifier: str | None = None) -> Generation:
        """See `EmbeddingStore.rollback`."""
        current = self._current(model_version)
        name = None if current is None else current.identifier
        target = common.rollback_target(
            self._records(model_version), name, identifier, model_version
        )
        with self._catalog_write() as transaction:
            transaction.put(_pointer(model_version), target.identifier.encode())
        return target.generation(current=True)

    def prune(self, model_version: int, keep: int = 2, grace_seconds: float = 3600.0) -> list[str]:
        """See `EmbeddingStore.prune`; what dead writers left behind goes too."""
        self._remove_dead(model_version)
        current = self._current(model_version)
        name = None if current is None else current.identifier
        doomed = common.prunable(
            self._records(model_version), name, keep, time.time() - grace_seconds
        )
        if doomed:
            with self._catalog_write() as transaction:
                if transaction.get(_pointer(model_version)) != (
                    None if name is None else name.encode()
                ):
                    raise StoreError(
                        f"model version {model_version} was published or rolled back meanwhile; "
                        "prune again"
                    )
                for record in doomed:
                    transaction.delete(_record_key(model_version, record.identifier))
        for record in doomed:
            self._drop(model_version, record.identifier)
        return [record.identifier for record in doomed]

    def close(self) -> None:
        """See `EmbeddingStore.close`."""
        self._environments.close()

    def publish(self, record: common.Record) -> None:
        """Makes a finished generation current in one transaction on the catalog."""
        with self._catalog_write() as transaction:
            transaction.put(_record_key(record.model_version, record.identifier), record.to_bytes())
            transaction.put(_pointer(record.model_version), record.identifier.encode())

    def _path(self, model_version: int, identifier: str) -> Path:
        return _generation_path(self.folder, model_version, identifier)

    def _drop(self, model_version: int, identifier: str) -> None:
        path = self._path(model_version, identifier)
        self._environments.forget(path)
        shutil.rmtree(path, ignore_errors=True)
        Path(f"{path}.lock").unlink(missing_ok=True)

    def _remove_dead(self, model_version: int) -> None:
        for identifier in {
            p.name.removesuffix(".lock") for p in (self.folder / str(model_version)).glob("*")
        }:
            lock = Path(f"{self._path(model_version, identifier)}.lock")
            if not lock.exists() and self._is_published(model_version, identifier):
                continue
            with contextlib.suppress(StoreError, FileNotFoundError), open_locked(lock, "a"):
                # Asked under the lock: the writer may have published until now.
                if self._is_published(model_version, identifier):
                    lock.unlink()
                else:
                    self._drop(model_version, identifier)

    def _is_published(self, model_version: int, identifier: str) -> bool:
        catalog = self._readable_catalog()
        if catalog is None:
            return False
        with catalog.begin() as transaction:
            return transaction.get(_record_key(model_version, identifier)) is not None

    def _versions(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())

    def _current(self, model_version: int) -> common.Record | None:
        catalog = self._readable_catalog()
        if catalog is None:
            return None
        with catalog.begin() as transaction:
            name = transaction.get(_pointer(model_version))
            content = (
                None if name is None else transaction.get(_record_key(model_version, name.decode()))
            )
        return None if content is None else common.Record.from_bytes(content)

    def _records(self, model_version: int) -> list[common.Record]:
        prefix = f"{_RECORD}{model_version}/".encode()
        catalog = self._readable_catalog()
        if catalog is None:
            return []
        found = []
        with catalog.begin() as transaction:
            cursor = transaction.cursor()
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append(common.Record.from_bytes(cursor.value()))
                more = cursor.next()
        return found

    def _readable_catalog(self) -> Any:
        """The catalog's environment; None before the first generation."""
        try:
            return self._environments.catalog(self._catalog, create=False)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _catalog_write(self) -> Iterator[Any]:
        try:
            with self._environments.catalog(self._catalog, create=True).begin(
                write=True
            ) as transaction:
                yield transaction
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"cannot write the catalog of the store {self.folder}: {error}"
            ) from error


class LmdbWriter:
    """Writes one generation into its own environment; see `GenerationWriter`."""

    def __init__(
        self, store: LmdbStore, model_version: int, embedding_dim: int, identifier: str
    ) -> None:
        self.identifier = identifier
        self._store = store
        self._model_version = model_version
        self._embedding_dim = embedding_dim
        self._path = _generation_path(store.folder, model_version, identifier)
        self._lock_path = Path(f"{self._path}.lock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open_locked(self._lock_path, "a")
            shutil.rmtree(self._path, ignore_errors=True)
            self._environment = lmdb_environment.open_writable(self._path)
            # One transaction for the whole generation: every commit in between would copy most
            # pages of the tree again.
            self._transaction = self._environment.begin(write=True)
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"cannot write the store {store.folder}: {error}") from error
        self._open = True

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """See `GenerationWriter.put`; from the thread that opened the generation.

        Batches of some ten thousand rows are the fastest.
        """
        self._check_open()
        stored = common.encode_embeddings(keys, embeddings, self._embedding_dim, self._store.dtype)
        content = memoryview(stored.tobytes())
        width = self._embedding_dim * stored.itemsize
        rows = {
            key: content[i * width : (i + 1) * width]
            for i, key in enumerate(common.encode_keys(keys))
        }
        try:
            self._transaction.cursor().putmulti(sorted(rows.items(), key=lambda item: item[0]))
        except lmdb.Error as error:
            raise StoreError(
                f"cannot write generation {self.identifier!r} below {self._store.folder}: {error}"
            ) from error

    def publish(self, expected_count: int | None = None) -> Generation:
        """See `GenerationWriter.publish`. What was put is on disk before the pointer moves."""
        self._check_open()
        count = int(
            self._transaction.stat(self._environment.open_db(txn=self._transaction))["entries"]
        )
        common.check_count(self.identifier, count, expected_count)
        try:
            self._transaction.commit()
            self._environment.sync(True)
        except lmdb.Error as error:
            raise StoreError(
                f"cannot write generation {self.identifier!r} to disk: {error}"
            ) from error
        record = common.Record(
            model_version=self._model_version,
            identifier=self.identifier,
            count=count,
            embedding_dim=self._embedding_dim,
            dtype=self._store.dtype,
            published=time.time(),
        )
        self._environment.close()
        self._store.publish(record)
        self._release()
        return record.generation(current=True)

    def abort(self) -> None:
        """See `GenerationWriter.abort`."""
        if self._open:
            self._transaction.abort()
            self._environment.close()
            shutil.rmtree(self._path, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        self._open = False
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(
                f"generation {self.identifier!r} is already published or aborted; open a new one"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


def open_locked(path: Path, mode: str) -> IO[str]:
    """Opens a file and takes its exclusive lock, or raises `StoreError` where somebody holds it."""
    while True:
        file = open(path, mode)  # noqa: SIM115 - the caller holds it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise StoreError(
                f"{path} is held by another process that is still writing; wait for it, or stop it"
            ) from error
        # The file may have been removed between opening and locking: then the lock protects
        # nothing.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


@functools.lru_cache(maxsize=256)
def _generation_path(folder: Path, model_version: int, identifier: str) -> Path:
    return folder / str(model_version) / identifier


def _pointer(model_version: int) -> bytes:
    return f"{_CURRENT}{model_version}".encode()


def _record_key(model_version: int, identifier: str) -> bytes:
    return f"{_RECORD}{model_version}/{identifier}".encode()
