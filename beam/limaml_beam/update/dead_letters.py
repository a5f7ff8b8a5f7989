"""Dead letters of updates, by day: ``<work>/updates/dead_letter/<day>.jsonl``."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Sequence
from pathlib import Path

#: Dead letters hold rows of members: they are removed after this time.
DEAD_LETTER_DAYS = 30.0
_DAY_SECONDS = 86_400


def write_letters(work: Path, letters: Sequence[str]) -> None:
    """Appends dead letters, JSON lines, to those of the day; they are on the disk afterwards."""
    if letters:
        folder = _folder(work)
        folder.mkdir(parents=True, exist_ok=True)
        day = dt.datetime.now(dt.UTC).strftime("%Y%m%d")
        with open(folder / f"{day}.jsonl", "a", encoding="utf-8") as file:
            file.writelines(f"{letter}\n" for letter in letters)
            file.flush()
            os.fsync(file.fileno())


def remove_letters(work: Path, days: float) -> int:
    """Removes files whose last letter is more than some days old; returns how many."""
    old = [
        file
        for file in _folder(work).glob("*.jsonl")
        if file.stat().st_mtime < time.time() - days * _DAY_SECONDS
    ]
    for file in old:
        file.unlink(missing_ok=True)
    return len(old)


def _folder(work: Path) -> Path:
    return work / "updates" / "dead_letter"
