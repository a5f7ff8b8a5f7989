"""Days (UTC) of a refresh's input that have no rows, next to those of the published run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from limaml_beam.build_tasks.settings import DAY_MS

_ONE, _EPOCH = dt.timedelta(1), dt.date(1970, 1, 1)


def lost(
    quality: Mapping[str, Any], reference: Mapping[str, Any], window: tuple[int, int]
) -> list[dt.date]:
    """The days that had rows in the published run and have none now.

    Args:
        quality: Of today's input; see `limaml_beam.build_tasks.quality.describe`.
        reference: Of the published run's input.
        window: Start and end of today's window, milliseconds. Days that are not whole within it do
            not count: their rows may have left it.
    """
    return sorted(
        day
        for day in _with_rows(reference) - _with_rows(quality)
        if window[0] <= _start(day) and _start(day + _ONE) <= window[1]
    )


def newly_empty(quality: Mapping[str, Any], reference: Mapping[str, Any]) -> list[dt.date]:
    """The days without rows between today's first and last that the published run did not have
    yet: those of which no run has told so far.
    """
    known = {*_empty(reference), *_with_rows(reference)}
    return sorted(_empty(quality) - known)


def text(days: Iterable[dt.date]) -> str:
    """Sorted days as text; two or more in a row as their first and last."""
    spans: list[tuple[dt.date, dt.date]] = []
    for day in days:
        if spans and spans[-1][1] + _ONE == day:
            spans[-1] = spans[-1][0], day
        else:
            spans.append((day, day))
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in spans)


def _empty(quality: Mapping[str, Any]) -> set[dt.date]:
    return set(map(dt.date.fromisoformat, quality.get("days_without_rows", ())))


def _with_rows(quality: Mapping[str, Any]) -> set[dt.date]:
    if "first_day" not in quality:
        return set()
    first, last = map(dt.date.fromisoformat, (quality["first_day"], quality["last_day"]))
    return {first + n * _ONE for n in range((last - first).days + 1)} - _empty(quality)


def _start(day: dt.date) -> int:
    return (day - _EPOCH).days * DAY_MS
