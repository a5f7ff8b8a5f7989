"""Days of a refresh's input with values that exist but cannot be read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

from limaml_beam.build_tasks.unreadable import BY_DAY, EXAMPLE
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES
from limaml_beam.refresh import days
from limaml_beam.refresh.checks import Check
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.wording import counted, shown

#: A day with fewer rows is not judged, such as one that begins just before the window ends: a
#: single unreadable value of four exceeds the default limit of 0.2. Of 20 rows, five must be
#: unreadable, which has a probability of 0.3 % where 5 % of all values are.
MIN_ROWS = 20
_ROWS = "rows_by_day"


def warnings(quality: Mapping[str, Any], schema: Schema) -> list[str]:
    """One line for each feature with unreadable values.

    Args:
        quality: Quality of today's input; see `limaml_beam.build_tasks.quality.describe`.
        schema: The columns.
    """
    values = {feature.name: feature.default_value for feature in schema.features}
    lines = []
    for name, of_feature in quality.get(UNREADABLE_VALUES, {}).items():
        number = sum(of_feature[BY_DAY].values())
        became = "it became" if number == 1 else "they became"
        lines.append(
            f"{counted(number, 'value')} of {name} cannot be read, such as "
            f"{shown(of_feature[EXAMPLE])}, on {_days_text(of_feature[BY_DAY])}: {became} "
            f"{values[name]!r}; correct the column, or its declaration"
        )
    return lines


def check(
    quality: Mapping[str, Any],
    reference: Mapping[str, Any],
    allowed: Mapping[str, tuple[float, str]],
    window: tuple[int, int],
) -> list[Check]:
    """Checks each day's share of unreadable values, for features that have any.

    Days that the published run contains with such a share were accepted with it, and do not count.
    Nor do days with fewer than `MIN_ROWS` rows, and days of which the window has lost rows: the
    published run was judged by all of them. The day in which the window ends counts: a column that
    cannot be read is refused on its first day.

    Args:
        quality: Quality of today's input.
        reference: Quality of the published run's input. If that run did not describe its unreadable
            values, all of its days are accepted; without the rows of its days, nothing is checked.
        allowed: By feature, the largest share, and the option that sets it.
        window: Start and end of today's window, milliseconds.
    """
    if _ROWS not in reference:
        return []
    checks = []
    for name, of_feature in quality.get(UNREADABLE_VALUES, {}).items():
        limit, option = allowed[name]
        known = _accepted(reference, name, limit)
        shares = {
            day: share
            for day, share in _shares(quality, name).items()
            if day not in known and days.begins_within(dt.date.fromisoformat(day), window)
        }
        above = [day for day, share in shares.items() if share > limit]
        checks.append(
            Check(
                f"share of unreadable values of feature {name} on one day",
                max(shares.values(), default=0.0),
                0.0,
                limit,
                f"{_days_text(above)}, such as {shown(of_feature[EXAMPLE])}" if above else "",
                _remedy(option) if above else "",
                options=("", option),
            )
        )
    return checks


def _accepted(reference: Mapping[str, Any], name: str, limit: float) -> Collection[str]:
    """The days whose values of a feature were published with a share above the limit."""
    if UNREADABLE_VALUES not in reference:
        return reference[_ROWS].keys()
    return {day for day, share in _shares(reference, name).items() if share > limit}


def _shares(quality: Mapping[str, Any], name: str) -> dict[str, float]:
    """A feature's share of unreadable values by day with at least `MIN_ROWS` rows.

    Repeated rows count once at most.
    """
    rows = quality.get(_ROWS, {})
    by_day = quality[UNREADABLE_VALUES].get(name, {}).get(BY_DAY, {})
    return {
        day: min(number / rows[day], 1.0)
        for day, number in by_day.items()
        if rows.get(day, 0) >= MIN_ROWS
    }


def _remedy(option: str) -> str:
    accept = f", or accept them with a larger {option}" if option else ""
    return f"correct the column, and deliver these days again{accept}"


def _days_text(by_day: Any) -> str:
    return days.text(sorted(map(dt.date.fromisoformat, by_day)))
