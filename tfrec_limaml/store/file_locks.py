"""Locks of files on this machine; the system releases them if the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tfrec_limaml.errors import StoreError


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """A context that waits for an exclusive lock of this machine, and holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_locked(path: Path) -> IO[str]:
    """Opens a file and takes its exclusive lock.

    Raises `StoreError` if another process holds it.
    """
    while True:
        file = open(path, "a")  # noqa: SIM115 - the caller holds it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise StoreError(
                f"{path} is held by another process that is still writing; wait for it, or stop it"
            ) from error
        # If the file was removed between opening and locking, the lock has no effect.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
