"""Row counters on stderr while a pipeline runs in this process.

Remote workers show none: their runner has its own display.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_bars: dict[str, Any] | None = None


@contextlib.contextmanager
def display() -> Iterator[None]:
    """Shows a counter for every stage that reports rows while the context lasts."""
    global _bars
    with _lock:
        _bars = {}
    try:
        yield
    finally:
        with _lock:
            for bar in (_bars or {}).values():
                bar.close()
            _bars = None


def advance(stage: str, rows: int) -> None:
    """Adds rows to a stage's counter."""
    if _bars is None:
        return
    from tqdm import tqdm

    with _lock:
        if stage not in _bars:
            _bars[stage] = tqdm(
                desc=stage,
                unit=" rows",
                unit_scale=True,
                mininterval=0.5,
                position=len(_bars),
                disable=None,
            )
        _bars[stage].update(rows)
