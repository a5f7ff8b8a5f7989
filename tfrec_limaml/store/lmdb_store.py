"""The LMDB backend: a folder, no server.

Layout::

    <folder>/catalog/                       LMDB: records of published generations,
                                            one pointer per model version
    <folder>/<version>/<identifier>/        LMDB: task key -> vector; immutable once published
    <folder>/<version>/<identifier>.lock    held (flock) by a living writer, so that what a dead
                                            one left behind is recognised

A generation becomes visible by one write transaction on the catalog. Its own environment never
changes afterwards, so readers open it without locks, one `get_many` reads one generation, and
removing it gives its disk space back at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import common, lmdb_environment, values
from tfrec_limaml.store.base import Found, Generation
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog
from tfrec_limaml.store.lmdb_writer import LmdbWriter, open_locked


class LmdbStore:
    """Embedding store in a folder; see the module's text.

    Args:
        folder: Created when the first generation is written.
        dtype: ``"float32"`` or ``"float16"`` for generations written from now on.
    """

    #: Reads come from this machine's memory and disk: a ranker need not guard against a hang.
    local = True

    def __init__(self, folder: str | Path, dtype: str = "float32") -> None:
        # One name for one folder: LMDB refuses to open an environment twice in a process.
        self.folder = Path(folder).resolve()
        self.dtype = common.check_dtype(dtype)
        self._environments = lmdb_environment.Environments()
        self._catalog = LmdbCatalog(self.folder / "catalog", self._environments)

    def get_many(self, keys: Sequence[str], model_version: int) -> Found:
        """See `EmbeddingStore.get_many`."""
        encoded = values.encode_asked(keys)
        reason: BaseException | None = None
        # A generation pruned between the pointer's read and the opening is looked up again.
        for _ in range(3):
            record = self._catalog.current(model_version)
            if record is None:
                return values.nothing_found(len(keys))
            try:
                environment = self._environment(record)
                with environment.begin() as transaction:
                    stored = list(map(transaction.get, encoded))
                return values.decode_values(encoded, stored, record)
            except (OSError, lmdb.Error) as error:
                reason = error
        raise StoreError(
            f"the current generation of model version {model_version} in {self.folder} is "
            f"damaged ({reason}): roll back, or publish anew"
        ) from reason

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None
    ) -> LmdbWriter:
        """See `EmbeddingStore.new_generation`; refused while a living writer holds the same
        identifier.
        """
        common.check_new(model_version, embedding_dim)
        self._remove_dead(model_version)
        name = common.choose_identifier(
            identifier, [r.identifier for r in self._catalog.records(model_version)]
        )
        record = common.Record(
            model_version=model_version,
            identifier=name,
            count=0,
            embedding_dim=embedding_dim,
            dtype=self.dtype,
            published=0.0,
            format=common.FORMAT,
        )
        return LmdbWriter(self._path(model_version, name), record, self.publish)

    def current(self, model_version: int) -> Generation | None:
        """See `EmbeddingStore.current`."""
        record = self._catalog.current(model_version)
        return None if record is None else self._generation(record, record.identifier)

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """See `EmbeddingStore.generations`; unpublished ones of living writers are not listed."""
        versions = self._versions() if model_version is None else [model_version]
        return [
            self._generation(record, self._catalog.current_name(version))
            for version in versions
            for record in self._catalog.records(version)
        ]

    def rollback(self, model_version: int, identifier: str | None = None) -> Generation:
        """See `EmbeddingStore.rollback`."""
        records, current = (
            self._catalog.records(model_version),
            self._catalog.current_name(model_version),
        )
        target = common.rollback_target(records, current, identifier, model_version)
        self._environment(target, "roll back to another one")
        target, changed = common.after_rollback(records, current, target, time.time())
        self._catalog.change(model_version, current, changed, pointer=target.identifier)
        return target.generation(current=True)

    def condemn(self, model_version: int, identifier: str) -> Generation:
        """See `EmbeddingStore.condemn`."""
        records, current = (
            self._catalog.records(model_version),
            self._catalog.current_name(model_version),
        )
        record = common.to_condemn(records, current, identifier, model_version)
        record = dataclasses.replace(record, condemned=time.time())
        self._catalog.change(model_version, current, [record])
        return record.generation(current=False)

    def prune(self, model_version: int, keep: int = 2, grace_seconds: float = 3600.0) -> list[str]:
        """See `EmbeddingStore.prune`; what dead writers left behind goes too."""
        self._remove_dead(model_version)
        current = self._catalog.current_name(model_version)
        doomed = common.prunable(
            self._catalog.records(model_version), current, keep, time.time() - grace_seconds
        )
        if doomed:
            self._catalog.change(model_version, current, (), removed=doomed)
        for record in doomed:
            self._drop(model_version, record.identifier)
        return [record.identifier for record in doomed]

    def close(self) -> None:
        """See `EmbeddingStore.close`."""
        self._environments.close()

    def _environment(self, record: common.Record, remedy: str = "publish anew") -> Any:
        """A generation's data; raises OSError, `lmdb.Error` or `StoreError` where they are not
        its own.
        """
        path = self._path(record.model_version, record.identifier)
        known = self._environments.known(path)
        if known is not None:
            return known

        def check(environment: Any) -> None:
            if record.format < 2:
                return
            with environment.begin() as transaction:
                header = transaction.get(values.HEADER)
            if header != record.header:
                raise StoreError(
                    f"{path} holds the data of another generation ({header!r}): {remedy}"
                )

        return self._environments.immutable(path, check)

    def _generation(self, record: common.Record, current: str | None) -> Generation:
        path = self._path(record.model_version, record.identifier)
        lost = not (path / "data.mdb").is_file()
        return record.generation(record.identifier == current, lost)

    def publish(self, record: common.Record) -> None:
        """Makes a finished generation current in one transaction on the catalog."""
        self._catalog.publish(record)

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
            if not lock.exists() and self._catalog.is_published(model_version, identifier):
                continue
            with contextlib.suppress(StoreError, FileNotFoundError), open_locked(lock, "a"):
                # Asked under the lock: the writer may have published until now.
                if self._catalog.is_published(model_version, identifier):
                    lock.unlink()
                else:
                    self._drop(model_version, identifier)

    def _versions(self) -> list[int]:
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())


@functools.lru_cache(maxsize=256)
def _generation_path(folder: Path, model_version: int, identifier: str) -> Path:
    return folder / str(model_version) / identifier
