"""Counts with their noun, durations and times."""

from __future__ import annotations

import pytest

from tfrec_limaml.wording import counted, day_text, duration, shown, utc_text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, "row"), "1 row"),
        ((0, "row"), "0 rows"),
        ((2, "row"), "2 rows"),
        ((1, "key occurs", "keys occur"), "1 key occurs"),
        ((3, "key occurs", "keys occur"), "3 keys occur"),
        ((12345, "row", None, ","), "12,345 rows"),
        ((1.0, "second", None, "g"), "1 second"),
        ((0.5, "second", None, "g"), "0.5 seconds"),
    ],
)
def test_one_is_singular_and_everything_else_plural(arguments, text):
    assert counted(*arguments) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0712, "0.0712 s"),
        (120, "120 s"),
        (150, "2.5 minutes"),
        (7200, "120.0 minutes"),
        (9000, "2.5 hours"),
        (56_974_297.745, "659.4 days"),
        (-3.0, "-3 s"),
    ],
)
def test_a_duration_has_a_unit_of_its_size(seconds, text):
    assert duration(seconds) == text


def test_a_time_is_text_in_utc():
    assert utc_text(1_735_689_600_000) == "2025-01-01T00:00:00+00:00"
    assert utc_text(1_735_689_600_250, "milliseconds") == "2025-01-01T00:00:00.250+00:00"


@pytest.mark.parametrize(
    ("value", "text"),
    [("a" * 40, repr("a" * 40)), ("a" * 41, repr("a" * 40 + "...")), (1.5, "'1.5'")],
)
def test_only_the_beginning_of_a_long_value_is_shown(value, text):
    assert shown(value) == text


def test_days_are_counted_from_1970():
    assert [day_text(day) for day in (0, 31, -1)] == ["1970-01-01", "1970-02-01", "1969-12-31"]
