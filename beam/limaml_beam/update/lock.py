"""The lock of a work folder: one updater at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tfrec_limaml.errors import LimamlError


class BusyError(LimamlError):
    """Another updater holds the work folder."""


@contextlib.contextmanager
def exclusive(work: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of updaters; raises `BusyError` if another one has it, or waits for it."""
    try:
        file = open(work / "update.lock", "a+")  # noqa: SIM115 - held until the end of the block
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
    with file:
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
        yield
