"""The work folder of refreshes: one run at a time, and a result for every run."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from limaml_beam.io import outcome
from tfrec_limaml.errors import LimamlError

RESULT_FILE = "refresh.json"


class LockedError(LimamlError):
    """Another run holds the work folder."""


@contextlib.contextmanager
def session(work: Path, reports: Sequence[str] = (), metrics: str | None = None) -> Iterator[None]:
    """Holds the work folder for one run and writes the run's outcome, even after an error.

    The outcome goes to ``refresh.json``, `reports` and `metrics`. A run that does not get the
    folder does not change ``refresh.json``, which describes runs that held the folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(work))
        except LimamlError as error:
            with outcome.reported("refresh", reports, metrics):
                if isinstance(error, LockedError):
                    outcome.stage(outcome.LOCK)
                raise
        results = [str(work / RESULT_FILE), *reports]
        stack.enter_context(outcome.reported("refresh", results, metrics))
        yield


@contextlib.contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Holds the work folder's lock; the system releases it when the process ends for any reason.

    Raises:
        LockedError: Another refresh holds it.
        LimamlError: The folder cannot be used.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = open(work / "refresh.lock", "a+")  # noqa: SIM115 - held until the end of the block
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LockedError(
                f"another refresh (process {file.read().strip() or 'unknown'}) is using {work}; "
                "wait for it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
