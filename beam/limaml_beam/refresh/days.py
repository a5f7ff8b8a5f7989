"""Days (UTC) of a refresh's input that lack rows, compared with the published run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from tfrec_limaml.datasets.partitions import start_of

#: A day with at most this share of the rows that it had in the published run lost its rows. A
#: partition of a local day overlaps two days of UTC: without it, one of them loses half or more.
LOST_SHARE = 0.5
_ONE = dt.timedelta(1)


def lost(
    quality: Mapping[str, Any], reference: Mapping[str, Any], window: tuple[int, int]
) -> list[dt.date]:
    """The days that lost at least half of the rows that they had in the published run.

    Args:
        quality: Quality of today's input; see `limaml_beam.build_tasks.quality.describe`.
        reference: Quality of the published run's input.
        window: Start and end of today's window, milliseconds. Days that are only partly in it do
            not count: their rows may have left it.
    """
    now = _rows_by_day(quality)
    return sorted(
        day
        for day, rows in _rows_by_day(reference).items()
        if now.get(day, 0) <= LOST_SHARE * rows
        and begins_within(day, window)
        and start_of(day + _ONE) <= window[1]
    )


def begins_within(day: dt.date, window: tuple[int, int]) -> bool:
    """Whether no row of a day is older than the window (start and end, milliseconds)."""
    return window[0] <= start_of(day)


def newly_empty(quality: Mapping[str, Any], reference: Mapping[str, Any]) -> list[dt.date]:
    """The days without rows between today's first and last that the published run did not cover.

    Days that it covered were reported by it, or are found by `lost`.
    """
    known = _span(_rows_by_day(reference))
    now = _rows_by_day(quality)
    return sorted(_span(now) - now.keys() - known)


def text(days: Iterable[dt.date]) -> str:
    """Sorted days as text; consecutive days as their first and last."""
    spans: list[tuple[dt.date, dt.date]] = []
    for day in days:
        if spans and spans[-1][1] + _ONE == day:
            spans[-1] = spans[-1][0], day
        else:
            spans.append((day, day))
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in spans)


def _rows_by_day(quality: Mapping[str, Any]) -> dict[dt.date, int]:
    rows = quality.get("rows_by_day", {})
    return {dt.date.fromisoformat(day): number for day, number in rows.items()}


def _span(days: Iterable[dt.date]) -> set[dt.date]:
    """All days from the first to the last."""
    if not (days := sorted(days)):
        return set()
    return {days[0] + n * _ONE for n in range((days[-1] - days[0]).days + 1)}
