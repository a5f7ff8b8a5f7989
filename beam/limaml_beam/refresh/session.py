"""The work folder of refreshes: one run at a time, and a result for every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from limaml_beam.io import outcome
from limaml_beam.io.folder_lock import REFRESH, BusyError, exclusive
from tfrec_limaml.errors import LimamlError

RESULT_FILE = "refresh.json"


@contextlib.contextmanager
def session(work: Path, reports: Sequence[str] = (), metrics: str | None = None) -> Iterator[None]:
    """Locks the work folder for one run and writes the run's outcome, even after an error.

    Args:
        work: The work folder; created if missing.
        reports: Further files for the outcome, which is written to ``refresh.json``. If another
            process holds the folder, only these are written.
        metrics: File for metrics in Prometheus' text format, or None.

    Raises:
        BusyError: Another process holds the folder.
        LimamlError: The folder cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            _make(work)
            stack.enter_context(exclusive(work, REFRESH))
        except LimamlError as error:
            with outcome.reported("refresh", reports, metrics):
                if isinstance(error, BusyError):
                    outcome.stage(outcome.LOCK)
                raise
        results = [str(work / RESULT_FILE), *reports]
        stack.enter_context(outcome.reported("refresh", results, metrics))
        yield


def _make(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
