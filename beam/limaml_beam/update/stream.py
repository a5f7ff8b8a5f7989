"""``limaml stream``: files that arrive in a folder, one micro-batch after another.

A file is done once its rows are in the store; ``<work>/updates/done.jsonl`` records it by name,
size and time. Files that a killed stream had not recorded are read again, which changes nothing,
because rows are identified by their content. While the store is unavailable the stream waits: files
stay in the folder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import format_of
from limaml_beam.update.dead_letters import write_letters
from limaml_beam.update.defaults import POLL_SECONDS
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.patience import PatientUpdater, Sleep, Tell, check_idle
from tfrec_limaml.errors import LimamlError

#: Name, size and modification time of a file.
_Mark: TypeAlias = tuple[str, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream.

    Attributes:
        folder: Where files of interactions arrive; names that begin with ``.`` or ``_`` are not
            read.
        update: The updater's settings.
        poll_seconds: Time between two checks of the folder.
        files_per_update: Most files of one micro-batch.
        idle_seconds: Ends after this time without a new file; None to run until stopped.
    """

    folder: Path
    update: Update
    poll_seconds: float = POLL_SECONDS
    files_per_update: int = 64
    idle_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.poll_seconds > 0 or self.files_per_update < 1:
            raise LimamlError(
                "poll_seconds must be positive and files_per_update at least 1, received "
                f"{self.poll_seconds} and {self.files_per_update}"
            )
        check_idle(self.idle_seconds)
        if not self.folder.is_dir():
            raise LimamlError(f"no folder {self.folder} for files to arrive in; create it first")


def stream(
    settings: Stream,
    tell: Tell,
    sleep: Sleep = time.sleep,
) -> dict[str, Any]:
    """Updates with arriving files, until none has arrived for `idle_seconds`.

    Args:
        settings: The settings.
        tell: Receives the report of every update, and ``{"waiting": reason}`` while it waits.
        sleep: Waits for a number of seconds.

    Returns:
        ``files``, ``updates``, ``rows``, ``tasks``, ``upserted``, ``dead_letters`` and ``waits``.

    Raises:
        LimamlError: An error that waiting does not solve: a work folder without rows, a changed
            schema.
    """
    done = _Done(settings.update.work / "updates" / "done.jsonl")
    updater, files = PatientUpdater(settings.update, tell, sleep), 0
    last = time.monotonic()
    while True:
        arrived = _readable(_arrived(settings.folder, done), done, updater)
        arrived = arrived[: settings.files_per_update]
        if arrived:
            paths = [str(path) for path, _ in arrived]
            report = updater.run(functools.partial(Updater.update, patterns=paths))
            done.add([mark for _, mark in arrived])
            files += len(arrived)
            tell({"files": len(arrived), **report})
            last = time.monotonic()
            continue
        updater.run_idle()
        idle = settings.idle_seconds
        if idle is not None and time.monotonic() - last >= idle:
            return {"files": files, **dataclasses.asdict(updater.totals)}
        sleep(settings.poll_seconds)


class _Done:
    """The files whose rows are in the store."""

    def __init__(self, path: Path) -> None:
        self._path, self._marks = path, set[_Mark]()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                name, size, modified = json.loads(line)
                self._marks.add((name, size, modified))
            except ValueError:
                continue  # the last line of a killed stream
        if text and not text.endswith("\n"):
            path.write_text(f"{text}\n", encoding="utf-8")

    def __contains__(self, mark: _Mark) -> bool:
        return mark in self._marks

    def add(self, marks: Sequence[_Mark]) -> None:
        """Remembers files, on the disk."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(mark)}\n" for mark in marks)
            file.flush()
            os.fsync(file.fileno())
        self._marks.update(marks)


def _arrived(folder: Path, done: _Done) -> list[tuple[Path, _Mark]]:
    """Files that are not recorded as done, the oldest first."""
    arrived = []
    for path in folder.iterdir():
        if path.name.startswith((".", "_")) or not path.is_file():
            continue
        stat = path.stat()
        mark = (path.name, stat.st_size, stat.st_mtime_ns)
        if stat.st_size and mark not in done:
            arrived.append((path, mark))
    return sorted(arrived, key=lambda entry: (entry[1][2], entry[1][0]))


def _readable(
    arrived: list[tuple[Path, _Mark]], done: _Done, updater: PatientUpdater
) -> list[tuple[Path, _Mark]]:
    """The arrived files of a known format; the others become dead letters."""
    readable = []
    for path, mark in arrived:
        try:
            format_of(str(path))
            readable.append((path, mark))
        except SourceError as error:
            letter = {"reason": "unreadable_file", "file": str(path), "detail": str(error)}
            write_letters(updater.work, [json.dumps(letter, ensure_ascii=False)])
            updater.totals.dead_letters += 1
            done.add([mark])
    return readable
