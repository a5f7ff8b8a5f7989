"""One updater at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from limaml_beam.io import folder_lock
from tfrec_limaml.errors import LimamlError


@contextlib.contextmanager
def exclusive(work: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of updaters; see `folder_lock.exclusive`.

    Raises:
        BusyError: Another updater holds the lock.
        LimamlError: The folder cannot be used, or the block could not write (a full disk).
    """
    try:
        with folder_lock.exclusive(work, folder_lock.UPDATE, wait):
            yield
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
