"""The outcome of a run as a machine-readable file, written for failures too.

::

    {"command": "refresh", "outcome": "refused", "stage": "check", "reason": "...",
     "began": "2026-01-01T03:00:00+00:00", "seconds": 12.3, ...counts and checks as far as it came}

``outcome`` is ``"done"``, ``"refused"`` (a check failed, or another run holds the work folder),
``"failed"`` or ``"interrupted"``; ``stage`` is the one that ran last.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limaml_beam.io import files, metrics_file, staged_output
from tfrec_limaml.errors import LimamlError

CHECK, LOCK = "check", metrics_file.LOCK
_current: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "outcome", default=None
)


def stage(name: str) -> None:
    """Sets the current stage."""
    note(stage=name)


def note(**facts: Any) -> None:
    """Adds facts to the report of the run, if there is one."""
    report = _current.get()
    if report is not None:
        report.update(facts)


@contextlib.contextmanager
def reported(
    command: str, paths: Sequence[str], metrics: str | None = None
) -> Iterator[dict[str, Any]]:
    """Writes the report of the block to every path when the block ends, even by an error.

    The report's metrics go to the file `metrics`. Nothing is written if neither is given. If a file
    cannot be written, the others are still tried.

    Yields:
        The report. Entries that the block adds to it are in the file.

    Raises:
        LimamlError: A file cannot be written; most reasons on this machine, and a missing bucket,
            are found before the block. After it the message says what the block has done, and the
            files that could be written have the outcome ``"done"``.
    """
    if not paths and metrics is None:  # facts go to the report of the caller
        yield {}
        return
    if metrics is not None:
        metrics_file.check(metrics)
    for path in paths:
        _check(path)
    began = time.time()
    report: dict[str, Any] = {
        "command": command,
        "outcome": "done",
        "stage": "start",
        "reason": None,
        "began": dt.datetime.fromtimestamp(began, dt.UTC).isoformat(timespec="seconds"),
    }
    token = _current.set(report)
    try:
        yield report
    except BaseException as error:
        refused = isinstance(error, LimamlError) and report["stage"] in (CHECK, LOCK)
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        report["outcome"] = "refused" if refused else "interrupted" if interrupted else "failed"
        report["reason"] = str(error) or type(error).__name__
        # The error of the block matters more than a report that cannot be written.
        _write(report, paths, metrics, began)
        raise
    else:
        errors = _write(report, paths, metrics, began)
        if errors:
            published = report.get("published")
            done = f"published {published}" if published else "the run is done"
            raise LimamlError(f"{done}, but {'; '.join(errors)}")
    finally:
        _current.reset(token)


def _check(path: str) -> None:
    """Raises `LimamlError` if a report could not be written after the run.

    On S3, only the bucket is looked at.
    """
    if not files.is_local(path):
        files.check_reachable(path)
        return
    report = Path(path).absolute()
    parent = next(folder for folder in report.parents if folder.exists())
    if report.is_dir():
        raise LimamlError(f"cannot write the report {path}: it is a folder")
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise LimamlError(
            f"cannot write the report {path}: {parent} is not a folder that may be written to"
        )


def _write(
    report: dict[str, Any], paths: Sequence[str], metrics: str | None, began: float
) -> list[str]:
    """Writes every file that can be written; returns why the others cannot."""
    ended = time.time()
    report["seconds"] = round(ended - began, 3)
    text = json.dumps(report, indent=2, default=str) + "\n"
    errors = []
    for path in paths:
        try:
            staged_output.write_file(path, text.encode())
        except (OSError, LimamlError) as error:
            errors.append(f"cannot write the report {path}: {error}")
    if metrics is not None:
        try:
            metrics_file.write(metrics, report, ended)
        except (OSError, LimamlError) as error:
            errors.append(str(error))
    return errors
