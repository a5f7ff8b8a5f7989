"""Dead letters of updates, by day: ``<work>/updates/dead_letter/<day>.jsonl``."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from pathlib import Path

#: Dead letters hold rows of members: they are removed after this time.
DEAD_LETTER_DAYS = 30.0
#: Reason of the dead letter of a file that cannot be read.
UNREADABLE_FILE = "unreadable_file"
_DAY_FORMAT = "%Y%m%d"


def file_letter(path: str, reason: str, error: Exception) -> str:
    """The dead letter of a whole file, a JSON line."""
    return json.dumps({"reason": reason, "file": path, "detail": str(error)}, ensure_ascii=False)


def write_letters(work: Path, letters: Sequence[str]) -> None:
    """Appends dead letters, JSON lines, to those of the day; they are on the disk afterwards."""
    if letters:
        folder = _folder(work)
        folder.mkdir(parents=True, exist_ok=True)
        day = dt.datetime.now(dt.UTC).strftime(_DAY_FORMAT)
        with open(folder / f"{day}.jsonl", "a", encoding="utf-8") as file:
            file.writelines(f"{letter}\n" for letter in letters)
            file.flush()
            os.fsync(file.fileno())


def remove_letters(work: Path, days: float) -> int:
    """Removes the letters of days that ended more than `days` days ago; returns how many files.

    The day is that of the file's name: an erasure writes the file anew.
    """
    limit = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    old = [
        file for file in _folder(work).glob("*.jsonl") if (end := _end_of_day(file)) and end < limit
    ]
    for file in old:
        file.unlink(missing_ok=True)
    return len(old)


def _end_of_day(file: Path) -> dt.datetime | None:
    """The end of the day of a file's letters; None if its name is not a day."""
    try:
        day = dt.datetime.strptime(file.stem, _DAY_FORMAT)
    except ValueError:
        return None
    return day.replace(tzinfo=dt.UTC) + dt.timedelta(days=1)


def _folder(work: Path) -> Path:
    return work / "updates" / "dead_letter"
