"""``limaml stream``: files that arrive in a folder, one micro-batch after another.

A file is done once its rows are in the store; ``<work>/updates/done.jsonl`` remembers it by name,
size and time. What a killed stream had not written there it does again, which changes nothing, as
rows are known by content. While the store is away the stream waits: files stay where they are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import format_of
from limaml_beam.update.job import BusyError, Update, Updater, exclusive, write_letters
from limaml_beam.update.plan import read_plan
from tfrec_limaml.errors import LimamlError, StoreError

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
#: Name, size and modification time of a file.
_Mark: TypeAlias = tuple[str, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream.

    Attributes:
        folder: Where files of interactions arrive; names that begin with ``.`` or ``_`` are not
            read.
        update: The updater's settings.
        poll_seconds: Between two looks at the folder.
        files_per_update: Most files of one micro-batch.
        idle_seconds: End after so long without a new file; None to go on for good.
    """

    folder: Path
    update: Update
    poll_seconds: float = 1.0
    files_per_update: int = 64
    idle_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.poll_seconds <= 0 or self.files_per_update < 1:
            raise LimamlError(
                "poll_seconds must be positive and files_per_update at least 1, received "
                f"{self.poll_seconds} and {self.files_per_update}"
            )
        if not self.folder.is_dir():
            raise LimamlError(f"no folder {self.folder} for files to arrive in; make it first")


def stream(
    settings: Stream,
    tell: Callable[[dict[str, Any]], None],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Updates with what arrives, until nothing has come for `idle_seconds`.

    Args:
        settings: The settings.
        tell: Gets the report of every update, and ``{"waiting": reason}`` while there is one.
        sleep: Waits.

    Returns:
        ``updates``, ``files``, ``tasks``, ``upserted``, ``dead_letters`` and ``waits``.

    Raises:
        LimamlError: what no waiting helps: a work folder without rows, another schema.
    """
    work = settings.update.work
    done, totals = _Done(work / "updates" / "done.jsonl"), _Totals()
    updater, plan, last = Updater(settings.update), read_plan(work), time.monotonic()
    wait = _FIRST_WAIT_SECONDS
    while True:
        arrived = _readable(_arrived(settings.folder, done), done, work, totals)
        arrived = arrived[: settings.files_per_update]
        if not arrived:
            idle = settings.idle_seconds
            if idle is not None and time.monotonic() - last >= idle:
                return dataclasses.asdict(totals)
            sleep(settings.poll_seconds)
            continue
        if read_plan(work) != plan:  # a refresh with another export, or other options
            updater, plan = Updater(settings.update), read_plan(work)
        try:
            tell(_update(updater, arrived, done, work, totals))
            last, wait = time.monotonic(), _FIRST_WAIT_SECONDS
        except (StoreError, BusyError) as error:
            totals.waits += 1
            tell({"waiting": str(error), "seconds": wait})
            sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


@dataclasses.dataclass
class _Totals:
    updates: int = 0
    files: int = 0
    tasks: int = 0
    upserted: int = 0
    dead_letters: int = 0
    waits: int = 0


class _Done:
    """The files whose rows are in the store."""

    def __init__(self, path: Path) -> None:
        self._path, self._marks = path, set[_Mark]()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                name, size, changed = json.loads(line)
                self._marks.add((name, size, changed))
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
    """Files that are not done, the oldest first."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith((".", "_")) or not path.is_file():
            continue
        stat = path.stat()
        mark = (path.name, stat.st_size, stat.st_mtime_ns)
        if stat.st_size and mark not in done:
            found.append((path, mark))
    return sorted(found, key=lambda each: (each[1][2], each[1][0]))


def _readable(
    arrived: list[tuple[Path, _Mark]], done: _Done, work: Path, totals: _Totals
) -> list[tuple[Path, _Mark]]:
    """Those of a known format; the others are dead letters."""
    good = []
    for path, mark in arrived:
        try:
            format_of(str(path))
            good.append((path, mark))
        except SourceError as error:
            letter = {"reason": "unreadable_file", "file": str(path), "detail": str(error)}
            write_letters(work, [json.dumps(letter, ensure_ascii=False)])
            totals.dead_letters += 1
            done.add([mark])
    return good


def _update(
    updater: Updater,
    arrived: list[tuple[Path, _Mark]],
    done: _Done,
    work: Path,
    totals: _Totals,
) -> dict[str, Any]:
    with exclusive(work):
        report = updater.update([str(path) for path, _ in arrived])
    done.add([mark for _, mark in arrived])
    totals.updates += 1
    totals.files += len(arrived)
    for name in ("tasks", "upserted", "dead_letters"):
        setattr(totals, name, getattr(totals, name) + report[name])
    return {"files": len(arrived), **report}
