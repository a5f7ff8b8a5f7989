"""Checks of the input, before tasks are adapted."""

import re

import pytest

from limaml_beam.build_tasks.settings import FAR_FUTURE, FAR_PAST
from limaml_beam.refresh import days
from limaml_beam.refresh.checks import Thresholds, require
from limaml_beam.refresh.input_checks import check_input
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import parse_time

ALWAYS = FAR_PAST, FAR_FUTURE


def at(date):
    return parse_time(f"2022-04-{date}")


def days_of(first, last, *without, rows=10, **changed):
    """`rows` rows on each day from the first to the last; ``d05=3``: three on the fifth."""
    days = (f"{day:02}" for day in range(int(first), int(last) + 1))
    counts = {day: changed.get(f"d{day}", rows) for day in days if day not in without}
    return {"rows_by_day": {f"2022-04-{day}": number for day, number in counts.items()}}


@pytest.mark.parametrize(
    ("now", "published", "window", "lost"),
    [
        (days_of("02", "09"), days_of("01", "08"), (at("02"), at("10")), ""),
        (days_of("02", "09", "05"), days_of("01", "08"), (at("02"), at("10")), "2022-04-05"),
        (days_of("02", "09", "05"), days_of("01", "08", "05"), (at("02"), at("10")), ""),
        (
            days_of("04", "09", "05", "06", "08"),
            days_of("01", "08"),
            (at("02"), at("10")),
            "2022-04-02 to 2022-04-03, 2022-04-05 to 2022-04-06, 2022-04-08",
        ),
        # A day that is delivered in part, and a local day that overlaps two.
        (days_of("02", "09", d05=5), days_of("01", "08"), (at("02"), at("10")), "2022-04-05"),
        (days_of("02", "09", d05=6), days_of("01", "08"), (at("02"), at("10")), ""),
        (days_of("02", "09", d05=7, d06=3), days_of("01", "08"), ALWAYS, "2022-04-01, 2022-04-06"),
        (days_of("01", "09", rows=20), days_of("01", "08"), ALWAYS, ""),
        # Days that are not whole within the window may have lost their rows to it.
        (days_of("03", "09"), days_of("01", "08"), (at("02") + 1, at("10")), ""),
        (days_of("02", "06"), days_of("01", "08"), (at("02"), at("08") - 1), ""),
        (days_of("02", "06"), days_of("01", "08"), (at("02"), at("08")), "2022-04-07"),
        (days_of("02", "06"), days_of("01", "08"), ALWAYS, "2022-04-01, 2022-04-07 to 2022-04-08"),
    ],
)
def test_a_day_of_the_window_that_loses_half_its_rows_is_refused_and_named(
    now, published, window, lost
):
    (check,) = check_input(now, {}, published, Thresholds(), window)
    assert (check.passed, check.detail) == (not lost, lost)
    if lost:
        remedy = rf"deliver .* accept them with --max-lost-days {check.value}$"
        allowed = r"allowed 0 to 0 \(--max-lost-days\)"
        with pytest.raises(LimamlError, match=rf"is \d \({lost}\), {allowed}: {remedy}"):
            require([check])
    (wide,) = check_input(now, {}, published, Thresholds(max_lost_days=5), window)
    assert wide.passed


def test_days_are_not_compared_with_a_run_that_did_not_write_them():
    assert check_input(days_of("02", "06"), {}, {"filled": {}}, Thresholds(), ALWAYS) == []


@pytest.mark.parametrize(
    ("published", "expected"),
    [({}, ["05", "08"]), (days_of("01", "06", "05"), ["08"]), (days_of("01", "08"), [])],
)
def test_an_empty_day_is_warned_about_by_the_first_run_that_sees_it(published, expected):
    found = days.newly_empty(days_of("02", "09", "05", "08"), published)
    assert [f"{day:%d}" for day in found] == expected


@pytest.mark.parametrize(
    ("quality", "trained", "reference", "failing"),
    [
        ({"filled": {"age": 0.1}}, {"filled": {}}, {}, []),
        ({"filled": {"age": 0.3}}, {"filled": {}}, {}, ["share of filled values of feature age"]),
        ({"filled": {"age": 0.3}}, {"filled": {"age": 0.2}}, {}, []),
        ({"filled": {"age": 1.0}}, {}, {}, ["share of filled values of feature age"]),
        ({"filled": {"age": 0.9}}, {}, {}, []),
        (
            {"filled": {"age": 0.9}},
            {},
            {"filled": {"age": 0.1}},
            ["share of filled values of feature age"],
        ),
        (
            {"unknown_keys": {"users": 1.0}},
            {"unknown_keys": {"users": 0.1}},
            {},
            ["share of unknown keys of table users"],
        ),
        ({"newest_row_age_days": 1.2}, {}, {"newest_row_age_days": 0.4}, []),
        (
            {"newest_row_age_days": 1.4},
            {},
            {"newest_row_age_days": 0.4},
            ["age of the newest row in days"],
        ),
        ({"newest_row_age_days": 9.0}, {}, {}, []),
        ({"rows_per_day": 60.0}, {}, {"rows_per_day": 100.0}, []),
        (
            {"rows_per_day": 40.0},
            {},
            {"rows_per_day": 100.0},
            ["rows per day relative to the published run"],
        ),
        (
            {"rows_per_day": 300.0},
            {},
            {"rows_per_day": 100.0},
            ["rows per day relative to the published run"],
        ),
    ],
)
def test_input_is_judged_by_the_training_data_and_the_published_run(
    quality, trained, reference, failing
):
    measured = check_input(quality, trained, reference, Thresholds(), ALWAYS)
    assert [check.name for check in measured if not check.passed] == failing


def test_a_window_that_ends_before_rows_of_the_published_run_is_refused():
    published = {"window_end": at("10"), "newest_row_age_days": 1 / 3}  # the ninth, 16:00

    def check(end, **limits):
        (made,) = check_input({}, {}, published, Thresholds(**limits), (at("01"), end))
        return made

    assert check(at("10")).passed
    assert check(at("11")).passed
    assert check(at("09") + 16 * 3_600_000 + 1).passed  # after the newest row
    assert not check(at("09") + 16 * 3_600_000).passed
    assert check(at("07"), max_days_back=3).passed
    text = r"is 3 \(2022-04-07T.* instead of 2022-04-10T.*\).* accept it with --max-days-back 3$"
    with pytest.raises(LimamlError, match=text):
        require([check(at("07"))])
    hour = r"is 0.04167 \(60\.0 minutes: 2022-04-09T23:00:00\+00:00 instead of 2022-04-10T00"
    late = {"window_end": at("10"), "newest_row_age_days": 0.0}
    (of_hour,) = check_input({}, {}, late, Thresholds(), (at("01"), at("10") - 3_600_000))
    assert re.search(hour, str(of_hour))
    accepted = float(re.search("--max-days-back ([0-9.]+)", str(check(at("09") + 1_000)))[1])
    assert check(at("09") + 1_000, max_days_back=accepted).passed


def unreadable(**by_day):
    """Three days of 20 rows each; ``d02=5``: five unreadable values on the second."""
    found = {f"2022-04-{day[1:]}": number for day, number in by_day.items()}
    values = {"x": {"by_day": found, "example": "0,5"}} if found else {}
    return {"unreadable": values, "filled": {"x": 0.1}} | days_of("01", "03", rows=20)


@pytest.mark.parametrize(
    ("now", "published", "refused"),
    [
        (unreadable(d03=9), unreadable(), "2022-04-03"),
        (unreadable(d03=8), unreadable(), ""),
        (unreadable(d02=20, d03=20), unreadable(d02=20), "2022-04-03"),
        (unreadable(d02=20, d03=20), unreadable(d02=8), "2022-04-02 to 2022-04-03"),
        (unreadable(d02=40), unreadable(), "2022-04-02"),
        (unreadable(d02=20), {}, ""),
        (unreadable(), unreadable(d02=20), ""),
    ],
)
def test_days_with_unreadable_values_are_refused_unless_the_published_run_has_them(
    now, published, refused
):
    trained = {"filled": {"x": 0.2}}
    measured = check_input(now, trained, published, Thresholds(), ALWAYS)
    failed = [check for check in measured if not check.passed]
    assert [check.name.split(" of ")[1] for check in failed] == ["unreadable values"] * bool(
        refused
    )
    for check in failed:
        assert check.detail == f"{refused}, such as '0,5'"
        assert check.remedy.endswith("or accept them with a larger --max-filled-increase")
        assert check.maximum == pytest.approx(0.4)
        assert check.value <= 1


def refused_days(now, published, window=ALWAYS):
    measured = check_input(now, {"filled": {"x": 0}}, published, Thresholds(), window)
    (check,) = (check for check in measured if "unreadable" in check.name)
    return check.detail


def test_a_day_of_few_rows_is_not_judged_by_its_unreadable_values():
    for rows, refused in ((1, ""), (19, ""), (20, "2022-04-04, such as '0,5'")):
        young = unreadable(d04=rows) | days_of("01", "04", rows=20, d04=rows)
        assert refused_days(young, unreadable()) == refused


def test_a_day_is_judged_at_its_end_although_it_was_published_with_few_rows():
    young = unreadable(d04=9) | days_of("01", "04", rows=20, d04=9)
    whole = unreadable(d04=20) | days_of("01", "04", rows=20)
    assert refused_days(whole, young) == "2022-04-04, such as '0,5'"
    assert refused_days(whole, whole) == ""


def test_a_day_that_leaves_the_window_is_not_judged_by_the_unreadable_values_that_remain():
    now, published = unreadable(d01=9, d03=9), unreadable(d01=3)
    assert refused_days(now, published).startswith("2022-04-01, 2022-04-03")
    for window in ((at("01") + 1, at("05")), (at("01") + 1, at("03") + 1)):
        assert refused_days(now, published, window).startswith("2022-04-03")


def test_days_after_those_of_a_run_that_did_not_describe_unreadable_values_are_judged():
    now = unreadable(d02=20, d03=20)
    assert refused_days(now, days_of("01", "02")).startswith("2022-04-03")
    assert refused_days(now, days_of("01", "03")) == ""
