"""Checks of a refresh's input, before any task is adapted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from limaml_beam.refresh import days, unreadable_days
from limaml_beam.refresh.checks import Check, between
from limaml_beam.refresh.options import Thresholds
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.wording import duration, utc_text

#: Share of filled values or unknown keys that is too large without any reference.
MAX_SHARE_WITHOUT_REFERENCE = 0.95
#: End of a run's window in the description of its input, milliseconds.
WINDOW_END = "window_end"


def check_input(
    quality: Mapping[str, Any],
    trained: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> list[Check]:
    """Compares the input of task records with earlier input.

    Args:
        quality: Quality of today's input: ``quality`` of the data card.
        trained: Quality of the model's training data; empty if unknown.
        reference: Quality of the published run's input; empty if there is none.
        limits: The thresholds.
        window: Start and end of today's window, milliseconds.

    Returns:
        For every feature its share of filled values and, on a new day, of unreadable ones, and for
        every table its share of unknown keys, against the training data or, if its shares are
        unknown, the published run; without either the limit is `MAX_SHARE_WITHOUT_REFERENCE`. The
        end of the window, the age of the newest row, the number of rows per day and the number of
        days that lost at least half of their rows, against the published run.
    """
    return [
        *_checks_of_shares(quality, trained, reference, limits, window),
        *_checks_of_times(quality, reference, limits, window),
    ]


def _checks_of_shares(
    quality: Mapping[str, Any],
    trained: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> list[Check]:
    """Filled and unreadable values, and unknown keys; see `check_input`."""
    checks = []
    for kind, text, limit in (
        ("filled", "share of filled values of feature", "max_filled_increase"),
        ("unknown_keys", "share of unknown keys of table", "max_unknown_increase"),
    ):
        shares = quality.get(kind, {})
        expected = trained.get(kind, reference.get(kind))
        allowed = _allowed(shares, expected, getattr(limits, limit), f"--{limit.replace('_', '-')}")
        for name, share in shares.items():
            maximum, option = allowed[name]
            checks.append(Check(f"{text} {name}", share, 0.0, maximum, options=("", option)))
        if kind == "filled":
            checks += unreadable_days.check(quality, reference, allowed, window)
    return checks


def _allowed(
    names: Iterable[str], expected: Mapping[str, float] | None, increase: float, option: str
) -> dict[str, tuple[float, str]]:
    """The largest share of each feature or table, and the option that sets it."""
    if expected is None:
        return dict.fromkeys(names, (MAX_SHARE_WITHOUT_REFERENCE, ""))
    return {name: (expected.get(name, 0.0) + increase, option) for name in names}


def usual_age(reference: Mapping[str, Any]) -> float:
    """The least age of the newest row, of the published run and all published runs before it.

    Compared with the last run alone, an input that stands still would only ever be a little older.
    """
    return max(reference.get("usual_age_days", reference["newest_row_age_days"]), 0.0)


def _checks_of_times(
    quality: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> list[Check]:
    """Which days have rows, and how many; see `check_input`."""
    checks = []
    if WINDOW_END in reference and "newest_row_age_days" in reference:
        checks.append(_check_of_window(window[1], reference, limits))
    if "newest_row_age_days" in quality and "newest_row_age_days" in reference:
        allowed = usual_age(reference) + limits.max_age_increase_days
        age = quality["newest_row_age_days"]
        options = "", "--max-age-increase-days"
        checks.append(Check("age of the newest row in days", age, 0.0, allowed, options=options))
    if quality.get("rows_per_day") and reference.get("rows_per_day"):
        checks.append(
            Check(
                "rows per day relative to the published run",
                quality["rows_per_day"] / reference["rows_per_day"],
                **between(limits, "rows_per_day_ratio"),
            )
        )
    if quality.get("rows_by_day") and reference.get("rows_by_day"):
        checks.append(_check_of_days(quality, reference, limits, window))
    return checks


def _check_of_window(end: int, reference: Mapping[str, Any], limits: Thresholds) -> Check:
    """That no row of the published run lies after the window, which ends at `end` (milliseconds).

    The value is by how much this window ends before the published one; 0 without such a row.
    """
    published = reference[WINDOW_END]
    newest_row = round(published - reference["newest_row_age_days"] * DAY_MS)
    days_back = max((published - end) / DAY_MS, 0.0) if newest_row >= end else 0.0
    # A part of a day is hard to read.
    length = f"{duration(days_back * DAY_MS / 1000)}: " if days_back < 1 else ""
    return Check(
        "number of days by which the window ends before that of the published run",
        days_back,
        0.0,
        limits.max_days_back,
        f"{length}{utc_text(end)} instead of {utc_text(published)}" if days_back else "",
        "readers would lose the newest rows: give a later --window-end, or accept it with "
        f"--max-days-back {math.ceil(days_back * 100) / 100:g}"
        if days_back
        else "",
        options=("", "--max-days-back"),
    )


def _check_of_days(
    quality: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> Check:
    """That no day of the window lost half of its rows."""
    lost = days.lost(quality, reference, window)
    return Check(
        "number of days that lost at least half of the published run's rows",
        len(lost),
        0.0,
        limits.max_lost_days,
        days.text(lost),
        "deliver these days and repeat the command, or accept them with --max-lost-days "
        f"{len(lost)}"
        if lost
        else "",
        options=("", "--max-lost-days"),
    )
