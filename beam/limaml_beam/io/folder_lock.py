"""Locks of a work folder, which the system releases when a process ends for any reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfrec_limaml.errors import LimamlError


class BusyError(LimamlError):
    """Another process holds the work folder."""


class Lock(NamedTuple):
    """One kind of lock.

    Attributes:
        file: Name of the lock's file.
        busy: The message while another process holds it, with ``{process}`` and ``{work}``.
    """

    file: str
    busy: str


REFRESH = Lock("refresh.lock", "another refresh (process {process}) is using {work}; wait for it")
UPDATE = Lock(
    "update.lock",
    "another update (process {process}) is using {work}: nothing was read; try again when it is "
    "done",
)


@contextlib.contextmanager
def exclusive(work: Path, lock: Lock, wait: bool = False) -> Iterator[None]:
    """Holds a lock of a work folder.

    Args:
        work: The work folder.
        lock: The kind of lock.
        wait: Wait for another process instead of raising `BusyError`.

    Raises:
        BusyError: Another process holds the lock.
        LimamlError: The folder cannot be used.
    """
    try:
        file = open(work / lock.file, "a+")  # noqa: SIM115 - held until the end of the block
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            process = file.read().strip() or "unknown"
            raise BusyError(lock.busy.format(process=process, work=work)) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_held(work: Path, lock: Lock) -> bool:
    """Whether a process holds a lock of the folder."""
    try:
        with (work / lock.file).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
