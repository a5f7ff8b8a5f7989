"""Locks of a work folder, which the system releases when a process ends for any reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from tfrec_limaml.errors import LimamlError

_POLL_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 600.0
#: `is_held`, and an erasure that waits for updates, hold a lock no longer than this.
_MOMENT_SECONDS, _SHORT_POLL_SECONDS = 0.5, 0.02


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
        wait: Wait some minutes for another process, and say so on stderr, before `BusyError` is
            raised.

    Raises:
        BusyError: Another process holds the lock.
        LimamlError: The folder cannot be used, or the block could not write (a full disk).
    """
    try:
        with (work / lock.file).open("a+") as file:
            _take(file, work, lock, wait)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error


def _take(file: TextIO, work: Path, lock: Lock, wait: bool) -> None:
    """Takes the lock; see `exclusive`."""
    begin = time.monotonic()
    told = False
    while not _is_taken(file):
        waited = time.monotonic() - begin
        if waited < _MOMENT_SECONDS:
            time.sleep(_SHORT_POLL_SECONDS)
            continue
        file.seek(0)
        process = file.read().strip() or "unknown"
        if wait and not told:
            told = True
            path = work / lock.file
            sys.stderr.write(f"limaml: waiting for process {process}, which holds {path}\n")
        if not wait or waited >= _LONGEST_WAIT_SECONDS:
            raise BusyError(lock.busy.format(process=process, work=work))
        time.sleep(_POLL_SECONDS)


def _is_taken(file: TextIO) -> bool:
    """Takes the lock, if no other process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(work: Path, lock: Lock) -> bool:
    """Whether a process holds a lock of the folder.

    The check itself takes the lock for an instant; `exclusive` waits for its end.
    """
    try:
        with (work / lock.file).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
