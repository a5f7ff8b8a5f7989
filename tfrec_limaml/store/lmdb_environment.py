"""Handles of LMDB environments.

LMDB does not allow a process to open an environment twice, or to use a handle after a fork. Handles
are therefore shared by path and process, and closed with the last user.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

# Address space, not disk space: files grow as needed.
_GENERATION_MAP_BYTES = 1 << 40
_CATALOG_MAP_BYTES = 1 << 26

_lock = threading.Lock()
_shared: dict[tuple[int, Path], Any] = {}
_users: dict[tuple[int, Path], int] = {}


def _let_go_after_fork() -> None:
    """Closes inherited handles of the parent process, which frees their paths in this process
    only.
    """
    global _lock
    _lock = threading.Lock()
    for environment in _shared.values():
        environment.close()
    _shared.clear()
    _users.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


class Environments:
    """The environments that one store object uses; all paths are absolute."""

    def __init__(self) -> None:
        self._mine: dict[tuple[int, Path], Any] = {}

    def catalog(self, path: Path, create: bool) -> Any:
        """The catalog; see `changing`."""
        return self.changing(path, create, _CATALOG_MAP_BYTES)

    def overlay(self, path: Path, create: bool) -> Any:
        """A generation's overlay; see `changing`."""
        known = self._mine.get((os.getpid(), path))
        if known is not None:
            return known
        self._forget_removed()
        return self.changing(path, create, _GENERATION_MAP_BYTES)

    def changing(self, path: Path, create: bool, map_bytes: int) -> Any:
        """An environment that changes, opened for reading and writing (`FileNotFoundError` if there
        is none and `create` is False).
        """
        known = self._mine.get((os.getpid(), path))
        if known is not None:
            return known
        if create:
            path.mkdir(parents=True, exist_ok=True)
        writable = create or os.access(path, os.W_OK)
        return self._get(
            path,
            {
                "map_size": map_bytes,
                "max_readers": 1024,
                "readonly": not writable,
                "create": create,
            },
        )

    def known(self, path: Path) -> Any:
        """The environment at `path` if it is open, else None."""
        return self._mine.get((os.getpid(), path))

    def immutable(self, path: Path, check: Callable[[Any], None]) -> Any:
        """A published generation, opened for reading without locks.

        Args:
            path: Its folder.
            check: Called with the opened environment; raises if it is not usable.
        """
        self._forget_removed()
        return self._get(
            path,
            {
                "map_size": _GENERATION_MAP_BYTES,
                "readonly": True,
                "lock": False,
                "readahead": False,
            },
            check,
        )

    def forget(self, path: Path) -> None:
        """Closes an environment before its removal."""
        self._release((os.getpid(), path))

    def _forget_removed(self) -> None:
        """Frees the disk space of generations that another process has pruned."""
        for name in list(self._mine):
            if not name[1].exists():
                self._release(name)

    def close(self) -> None:
        """Closes all environments."""
        for name in list(self._mine):
            self._release(name)

    def _get(
        self,
        path: Path,
        options: dict[str, Any],
        check: Callable[[Any], None] = lambda environment: None,
    ) -> Any:
        name = (os.getpid(), path)
        with _lock:
            if name in self._mine:  # another thread was faster
                return self._mine[name]
            environment = _shared.get(name)
            if environment is None:
                if not (path / "data.mdb").exists() and not options.get("create"):
                    raise FileNotFoundError(path)
                environment = lmdb.open(str(path), **options)
                try:
                    _check_length(path, environment)
                    check(environment)
                except BaseException:
                    environment.close()
                    raise
                _shared[name] = environment
            _users[name] = _users.get(name, 0) + 1
            self._mine[name] = environment
        return environment

    def _release(self, name: tuple[int, Path]) -> None:
        with _lock:
            environment = self._mine.pop(name, None)
            if environment is None:
                return
            _users[name] -= 1
            if _users[name] == 0:
                del _users[name], _shared[name]
                if name[0] == os.getpid():
                    environment.close()


def _check_length(path: Path, environment: Any) -> None:
    """Refuses a file that is shorter than its pages: reading missing pages would crash the
    process.
    """
    pages = environment.info()["last_pgno"] + 1
    needed = pages * environment.stat()["psize"]
    size = (path / "data.mdb").stat().st_size
    if size < needed:
        raise lmdb.CorruptedError(f"{path / 'data.mdb'} has {size} bytes, {needed} are in use")


def open_writable(path: Path) -> Any:
    """A new environment for one writer; durable only after ``sync(True)``."""
    path.mkdir(parents=True)
    return lmdb.open(
        str(path),
        map_size=_GENERATION_MAP_BYTES,
        sync=False,
        metasync=False,
        lock=False,
        meminit=False,
    )
