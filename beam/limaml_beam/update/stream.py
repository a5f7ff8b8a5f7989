"""``limaml stream``: files that arrive in a folder, one micro-batch after another.

A file is done once its rows are in the store; ``<work>/updates/done.jsonl`` records it by name,
size and time, as long as it is in the folder. Files that a killed stream had not recorded are read
again, which changes nothing, because rows are identified by their content. While the store is
unavailable the stream waits: files stay in the folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple, TypeAlias

from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import format_of
from limaml_beam.update.dead_letters import UNREADABLE_FILE, file_letter, write_letters
from limaml_beam.update.defaults import POLL_SECONDS
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.patience import PatientUpdater, Sleep, Tell, check_idle
from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError

#: Name, size and modification time of a file.
_Mark: TypeAlias = tuple[str, int, int]


class _File(NamedTuple):
    """A file of the folder."""

    path: str
    mark: _Mark


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream.

    Attributes:
        folder: Where files of interactions arrive; names that begin with ``.`` or ``_`` are not
            read.
        update: The updater's settings.
        poll_seconds: Time between two checks of the folder.
        files_per_update: Maximum number of files in one micro-batch.
        idle_seconds: Seconds without a new file after which the stream ends; None to run until
            stopped.
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
        tell: Receives the report of every update, and those of other events; see `Tell`.
        sleep: Waits for a number of seconds.

    Returns:
        ``files``, ``updates``, ``rows``, ``tasks``, ``upserted``, ``dead_letters`` and ``waits``.

    Raises:
        LimamlError: An error that waiting does not solve: a work folder without rows, a changed
            schema, a folder of files that was removed.
    """
    done = _Done(settings.update.work / "updates" / "done.jsonl", _listed(settings.folder))
    updater, files = PatientUpdater(settings.update, tell, sleep), 0
    last = time.monotonic()
    while True:
        listed = _listed(settings.folder)
        done.forget_all_but(listed)
        readable = _readable(_arrived(listed, done), done, updater, tell)
        arrived = readable[: settings.files_per_update]
        if arrived:
            batch = _Batch(arrived)
            report = updater.run(batch.update)
            done.add([file.mark for file in batch.files])
            files += len(batch.files)
            tell({"files": len(batch.files), **report})
            last = time.monotonic()
            continue
        updater.run_idle()
        idle = settings.idle_seconds
        if idle is not None and time.monotonic() - last >= idle:
            return {"files": files, **dataclasses.asdict(updater.totals)}
        sleep(settings.poll_seconds)


@dataclasses.dataclass
class _Batch:
    """The files of one update: those that are still in the folder at the update's last attempt."""

    files: list[_File]

    def update(self, updater: Updater) -> dict[str, Any]:
        """Updates with the files; a file that is removed or replaced meanwhile is left out."""
        self._drop_changed_files()
        while self.files:
            try:
                return updater.update([file.path for file in self.files])
            except SourceError:
                if not self._drop_changed_files():
                    raise
        return updater.update_due()

    def _drop_changed_files(self) -> bool:
        """Whether any file was removed or replaced."""
        before = len(self.files)
        self.files = [file for file in self.files if _file_at(file.path) == file]
        return len(self.files) < before


class _Done:
    """The files whose rows are in the store.

    Args:
        path: Where they are recorded.
        listed: The files of the folder; those that are no longer in it are forgotten.
    """

    def __init__(self, path: Path, listed: Sequence[_File]) -> None:
        self._path, self._marks = path, set[_Mark]()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                name, size, modified = json.loads(line)
                self._marks.add((name, size, modified))
            except ValueError:
                continue  # the last line of a killed stream
        self.forget_all_but(listed)
        lines = [f"{json.dumps(mark)}\n" for mark in self._marks]
        if sorted(lines) != sorted(text.splitlines(keepends=True)):
            staging.write_text(path, "".join(lines))

    def __contains__(self, mark: _Mark) -> bool:
        return mark in self._marks

    def forget_all_but(self, listed: Sequence[_File]) -> None:
        """Forgets files that are no longer in the folder, until the next start not on the disk."""
        self._marks.intersection_update(file.mark for file in listed)

    def add(self, marks: Sequence[_Mark]) -> None:
        """Remembers files, on the disk."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(mark)}\n" for mark in marks)
            file.flush()
            os.fsync(file.fileno())
        self._marks.update(marks)


def _listed(folder: Path) -> list[_File]:
    """The files that are complete: not empty, and without a temporary name."""
    try:
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if not entry.name.startswith((".", "_"))]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LimamlError(
            f"the folder {folder}, in which files arrive, is no longer there: create it and start "
            "the stream again"
        ) from error
    return [file for file in map(_file_at, paths) if file is not None]


def _file_at(path: str) -> _File | None:
    """The file; None if it is empty, or was removed meanwhile."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    mark = (os.path.basename(path), stat.st_size, stat.st_mtime_ns)
    return _File(path, mark) if S_ISREG(stat.st_mode) and stat.st_size else None


def _arrived(listed: Sequence[_File], done: _Done) -> list[_File]:
    """Files that are not recorded as done, the oldest first."""
    arrived = [file for file in listed if file.mark not in done]
    return sorted(arrived, key=lambda file: (file.mark[2], file.mark[0]))


def _readable(
    arrived: Sequence[_File], done: _Done, updater: PatientUpdater, tell: Tell
) -> list[_File]:
    """The arrived files of a known format; the others become dead letters."""
    readable = []
    for file in arrived:
        try:
            format_of(file.path)
            readable.append(file)
        except SourceError as error:
            letter = file_letter(file.path, UNREADABLE_FILE, error)
            # an erasure may rewrite the day's letters
            with exclusive(updater.work, UPDATE, wait=True):
                write_letters(updater.work, [letter])
            updater.totals.dead_letters += 1
            done.add([file.mark])
            tell({"refused_file": file.path, "reason": str(error)})
    return readable
