"""Handles of LMDB environments.

LMDB does not allow a process to open an environment twice, or to use a handle after a fork. Handles
are therefore shared by file and process, and closed with the last user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

# Address space, not disk space: files grow as needed.
_GENERATION_MAP_BYTES = 1 << 40
_CATALOG_MAP_BYTES = 1 << 33
# Seconds between two checks whether the folder was replaced. A check takes a third of the time of a
# look-up.
_CHECK_SECONDS = 1.0

#: LMDB's own default, and the size of a reader's entry in ``lock.mdb``.
_DEFAULT_READERS, _READER_BYTES = 126, 64
#: Time for which the folder may be absent while another one replaces it.
_ABSENT_SECONDS = 5.0

#: Mode of an environment's files, which the umask restricts.
_MODE = 0o777

#: Process and file (device and inode) of a handle. A folder that replaces another has other files.
_Key: TypeAlias = tuple[int, tuple[int, int]]
_lock = threading.Lock()
_shared: dict[_Key, Any] = {}
_users: dict[_Key, int] = {}


def _close_after_fork() -> None:
    """Closes inherited handles of the parent process.

    This frees their paths in this process only.
    """
    global _lock
    _lock = threading.Lock()
    for environment in _shared.values():
        environment.close()
    _shared.clear()
    _users.clear()


os.register_at_fork(after_in_child=_close_after_fork)


class Environments:
    """The environments that one store object uses; all paths are absolute."""

    def __init__(self) -> None:
        self._opened: dict[tuple[int, Path], Any] = {}
        self._files: dict[tuple[int, Path], tuple[int, int]] = {}
        self._next_check = 0.0
        self._absent_since = 0.0
        #: Number of times that `follow` has closed all environments.
        self.followed = 0

    def catalog(self, path: Path, create: bool) -> Any:
        """The catalog; see `mutable` and `follow`."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            self.follow(path)
        return self.mutable(path, create, _CATALOG_MAP_BYTES)

    def follow(self, catalog: Path) -> None:
        """Closes all environments if another store has replaced the folder.

        The folder was created again, or restored from a copy. The next use opens the environments
        of the new store.
        """
        opened = self._files.get((os.getpid(), catalog))
        file = None if opened is None else _file_of(catalog)
        if opened is not None and file is None:
            self._absent_since = self._absent_since or time.monotonic()
            if time.monotonic() - self._absent_since > _ABSENT_SECONDS:
                raise FileNotFoundError(errno.ENOENT, "the store was removed", str(catalog))
            return
        self._absent_since = 0.0
        if file != opened:
            self.close()
            self.followed += 1

    def overlay(self, path: Path, create: bool) -> Any:
        """A generation's overlay; see `mutable`."""
        environment = self._opened.get((os.getpid(), path))
        if environment is not None:
            return environment
        self._forget_removed()
        return self.mutable(path, create, _GENERATION_MAP_BYTES)

    def mutable(self, path: Path, create: bool, map_bytes: int) -> Any:
        """An environment that changes, opened for reading and writing.

        Raises `FileNotFoundError` if there is none and `create` is False.
        """
        environment = self._opened.get((os.getpid(), path))
        if environment is not None:
            return environment
        if create:
            path.mkdir(parents=True, exist_ok=True)
        writable = create or os.access(path, os.W_OK)
        environment = self._get(
            path,
            {
                "map_size": map_bytes,
                "max_readers": 1024,
                "readonly": not writable,
                "create": create,
            },
        )
        if writable:
            environment.reader_check()
        return environment

    def open_environment(self, path: Path) -> Any:
        """The environment at `path` if it is open, else None."""
        return self._opened.get((os.getpid(), path))

    def immutable(self, path: Path, check: Callable[[Any], None]) -> Any:
        """A published generation, opened for reading without locks.

        Args:
            path: Folder of the generation.
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
        """Frees the disk space of generations that another process has pruned.

        If the whole store is absent, nothing is forgotten: `follow` waits for it.
        """
        for key in list(self._opened):
            if not key[1].exists() and key[1].parent.exists():
                self._release(key)

    def close(self) -> None:
        """Closes all environments."""
        for key in list(self._opened):
            self._release(key)

    def _get(
        self,
        path: Path,
        options: dict[str, Any],
        check: Callable[[Any], None] = lambda environment: None,
    ) -> Any:
        name = (os.getpid(), path)
        with _lock:
            if name in self._opened:  # another thread was faster
                return self._opened[name]
            file = _file_of(path)
            environment = None if file is None else _shared.get((name[0], file))
            if environment is None:
                if file is None and not options.get("create"):
                    raise FileNotFoundError(path)
                _check_not_empty(path)
                if options.get("lock", True) and os.access(path, os.W_OK):
                    reserve_lock_file(path, options["max_readers"])
                environment = lmdb.open(str(path), mode=_MODE, **options)
                try:
                    _check_length(path, environment)
                    check(environment)
                except BaseException:
                    environment.close()
                    raise
                file = _file_of(path)
                if file is None:
                    environment.close()
                    raise FileNotFoundError(path)
                _shared[name[0], file] = environment
            assert file is not None
            _users[name[0], file] = _users.get((name[0], file), 0) + 1
            self._opened[name], self._files[name] = environment, file
        return environment

    def _release(self, name: tuple[int, Path]) -> None:
        with _lock:
            environment = self._opened.pop(name, None)
            if environment is None:
                return
            key = (name[0], self._files.pop(name))
            if key not in _users:  # of the parent process; closed at the fork
                return
            _users[key] -= 1
            if _users[key] == 0:
                del _users[key], _shared[key]
                environment.close()


@contextlib.contextmanager
def write_transaction(environment: Any) -> Iterator[Any]:
    """A write transaction that may use the pages which killed readers held.

    LMDB keeps every page that a reader may still read, and nothing else ends the reads of a killed
    process: without the check the file would grow with every transaction.
    """
    environment.reader_check()
    with environment.begin(write=True) as transaction:
        yield transaction


def explained(error: BaseException) -> str:
    """An error of LMDB or the disk, with its remedy if it is a limit of addresses."""
    if isinstance(error, lmdb.MemoryError):
        return (
            f"{error}; LMDB reserves a terabyte of addresses, not of memory: run without a limit "
            "on address space (ulimit -v unlimited)"
        )
    if isinstance(error, lmdb.MapFullError):
        return (
            f"it is full: it holds at most {_CATALOG_MAP_BYTES >> 20:,} MB, which is about 50 "
            "million erased keys; publish into a new folder"
        )
    return str(error)


def _file_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of an environment's file; None if there is no file."""
    try:
        found = os.stat(f"{path}/data.mdb")
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_not_empty(path: Path) -> None:
    """Raises `lmdb.CorruptedError` for a file of 0 bytes, which LMDB would begin anew."""
    if (file := path / "data.mdb").is_file() and not file.stat().st_size:
        raise lmdb.CorruptedError(
            f"{file} has 0 bytes: restore it from a copy, or remove it if nothing was published yet"
        )


def reserve_lock_file(folder: Path, readers: int = _DEFAULT_READERS) -> None:
    """Reserves the space of a new ``lock.mdb``.

    LMDB maps a sparse file into memory: on a full disk the first access would end the process.

    Raises:
        OSError: The disk is full.
    """
    file, size = folder / "lock.mdb", _READER_BYTES * readers + _READER_BYTES * 64
    # A file that a process has open is never opened here: closing it would drop LMDB's lock on it.
    if not file.is_file() or file.stat().st_size < _READER_BYTES * readers:
        with file.open("ab") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)


def _check_length(path: Path, environment: Any) -> None:
    """Raises `lmdb.CorruptedError` for a file that is shorter than its pages.

    Reading missing pages would crash the process.
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
        mode=_MODE,
        sync=False,
        metasync=False,
        lock=False,
        meminit=False,
    )
