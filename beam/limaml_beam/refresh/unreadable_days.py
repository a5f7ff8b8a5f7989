"""Days of a refresh's input with values that exist but cannot be read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from limaml_beam.build_tasks.explanation import shown
from limaml_beam.build_tasks.unreadable import BY_DAY, EXAMPLE
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES
from limaml_beam.refresh import days
from limaml_beam.refresh.checks import Check
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.wording import counted


def warnings(quality: Mapping[str, Any], schema: Schema) -> list[str]:
    """One line for each feature with unreadable values.

    Args:
        quality: Of today's input; see `limaml_beam.build_tasks.quality.describe`.
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
) -> list[Check]:
    """Checks each day's share of unreadable values, for features that have any.

    Days that the published run contains with such a share were accepted with it, and do not count.

    Args:
        quality: Of today's input.
        reference: Of the published run's input. Without its unreadable values, nothing is checked.
        allowed: By feature, the largest share, and the option that sets it.
    """
    if UNREADABLE_VALUES not in reference:
        return []
    checks = []
    for name, of_feature in quality.get(UNREADABLE_VALUES, {}).items():
        limit, option = allowed[name]
        known = {day for day, share in _shares(reference, name).items() if share > limit}
        shares = {day: s for day, s in _shares(quality, name).items() if day not in known}
        above = [day for day, share in shares.items() if share > limit]
        checks.append(
            Check(
                f"share of unreadable values of feature {name} on one day",
                max(shares.values(), default=0.0),
                0.0,
                limit,
                f"{_days_text(above)}, such as {shown(of_feature[EXAMPLE])}" if above else "",
                "correct the column, and deliver these days again" if above else "",
                options=("", option),
            )
        )
    return checks


def _shares(quality: Mapping[str, Any], name: str) -> dict[str, float]:
    """A feature's share of unreadable values by day; repeated rows count once at most."""
    rows = quality.get("rows_by_day", {})
    by_day = quality[UNREADABLE_VALUES].get(name, {}).get(BY_DAY, {})
    return {day: min(number / max(rows.get(day, 0), 1), 1.0) for day, number in by_day.items()}


def _days_text(by_day: Any) -> str:
    return days.text(sorted(map(dt.date.fromisoformat, by_day)))
