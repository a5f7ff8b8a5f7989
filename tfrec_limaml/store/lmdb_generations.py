"""The data of an LMDB store's generations: one environment in a folder for each.

The layout is described in `lmdb_store`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import lmdb

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import values
from tfrec_limaml.store.base import Generation
from tfrec_limaml.store.file_locks import open_locked
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.generation_rules import LOCK_SUFFIX
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog
from tfrec_limaml.store.lmdb_environment import Environments
from tfrec_limaml.version_folders import version_number


class LmdbGenerations:
    """The generations in one store folder.

    Args:
        folder: The store's folder.
        catalog: The store's catalog.
        environments: The store's handles.
    """

    def __init__(self, folder: Path, catalog: LmdbCatalog, environments: Environments) -> None:
        self._folder, self._catalog, self._environments = folder, catalog, environments

    def path(self, record: Record) -> Path:
        """Folder of a generation's data."""
        return _generation_path(self._folder, record.model_version, record.folder)

    def open(self, record: Record, remedy: str = "publish again") -> Any:
        """A generation's data; raises OSError, `lmdb.Error` or `StoreError` if they are not its."""
        path = self.path(record)
        opened = self._environments.open_environment(path)
        if opened is not None:
            return opened

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

    def described(self, record: Record, current: str | None) -> Generation:
        """The public view of a record; a generation whose data cannot be opened is lost."""
        lost = True
        with contextlib.suppress(OSError, lmdb.Error, StoreError):
            lost = self.open(record) is None
        return record.generation(record.identifier == current, lost)

    def drop(self, model_version: int, folder: str) -> None:
        """Removes the data of a generation."""
        path = _generation_path(self._folder, model_version, folder)
        self._environments.forget(path)
        shutil.rmtree(path, ignore_errors=True)
        lock_of(path).unlink(missing_ok=True)

    def remove_dead(self, model_version: int) -> None:
        """Removes the data of dead writers."""
        for name in {
            p.name if p.is_dir() else p.name.removesuffix(LOCK_SUFFIX)
            for p in (self._folder / str(model_version)).glob("*")
        }:
            lock = lock_of(_generation_path(self._folder, model_version, name))
            if not lock.is_file() and self._catalog.is_published(model_version, name):
                continue
            with contextlib.suppress(StoreError, FileNotFoundError), open_locked(lock):
                # Checked under the lock: the writer may have published in the meantime.
                if self._catalog.is_published(model_version, name):
                    lock.unlink()
                else:
                    self.drop(model_version, name)

    def versions(self) -> list[int]:
        """The model versions with a folder."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read the store folder {self._folder}: {error}") from error
        versions = map(version_number, names)
        return sorted(version for version in versions if version is not None)


@functools.lru_cache(maxsize=256)
def _generation_path(folder: Path, model_version: int, name: str) -> Path:
    return folder / str(model_version) / name


def lock_of(path: Path) -> Path:
    """The file that a writer of a generation's folder locks."""
    return Path(f"{path}{LOCK_SUFFIX}")
