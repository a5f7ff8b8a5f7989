"""The lock of a work folder: one updater at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tfrec_limaml.errors import LimamlError


class BusyError(LimamlError):
    """Another updater holds the work folder."""


@contextlib.contextmanager
def exclusive(work: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of updaters.

    Args:
        work: The work folder.
        wait: Wait for another updater instead of raising `BusyError`.

    Raises:
        BusyError: Another updater holds the lock.
        LimamlError: The folder cannot be used, or the block could not write (a full disk).
    """
    try:
        with open(work / "update.lock", "a+") as file:
            _lock(file, work, wait)
            yield
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error


def _lock(file: IO[str], work: Path, wait: bool) -> None:
    """Locks the file and writes the number of this process into it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        file.seek(0)
        raise BusyError(
            f"another update (process {file.read().strip() or 'unknown'}) is using {work}: "
            "nothing was read; try again when it is done"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
