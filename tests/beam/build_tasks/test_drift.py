"""Drift of features between the training and the evaluation rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from toys import toy_schema

from limaml_beam.build_tasks import drift
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows.columnar import TIME
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Feature

SCHEMA = toy_schema(
    Feature(name="x", role="meta"),
    Feature(name="kind", dtype="string", encoding="vocabulary"),
    label="y",
    timestamp="t",
    tasks={"user": ("u",)},
)
HOW = TaskSettings(definitions=("user",), validation_start=10, test_start=20)


def measured(x, kinds, times, how=HOW):
    table = pa.table(
        {"x": pa.array(x, pa.float32()), "kind": pa.array(kinds), TIME: pa.array(times)}
    )
    combine = drift.MeasureFeatures(SCHEMA, how)
    half = table.num_rows // 2
    parts = [
        combine.add_input(combine.create_accumulator(), part)
        for part in (table.slice(0, half), table.slice(half))
    ]
    return combine.extract_output(combine.merge_accumulators(parts))


def test_drift_is_the_distance_of_means_in_standard_deviations_and_the_share_that_moved():
    n = 1000
    times = np.repeat([5, 15, 25], n)
    x = np.concatenate([np.tile([0.0, 2.0], n // 2), np.tile([1.0, 3.0], n // 2), np.ones(n)])
    kinds = ["a"] * n + ["a"] * (n // 4) + ["b"] * (3 * n // 4) + ["a"] * n
    found = measured(x, kinds, times)
    assert found["x"]["validation"] == {"drift": 1.0, "uncertain": False}
    assert found["x"]["test"] == {"drift": 0.0, "uncertain": True}
    assert found["kind"]["validation"] == {"drift": 0.75, "uncertain": False}
    assert found["kind"]["test"]["drift"] == 0.0
    assert drift.warnings(found) == [
        "feature x drifts: the mean of its validation rows is 1.00 standard deviations from that "
        "of the training rows",
        "feature kind drifts: 75% of its validation rows are distributed differently from the "
        "training rows",
    ]


WEEKDAYS = np.array(["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"])


def weekdays(days):
    """1400 rows, evenly on these days: the weekday as a number and as text, and the times."""
    day, second = np.resize(days, 1400), np.arange(1400)
    return (day % 7).astype(float), WEEKDAYS[day % 7], day * DAY_MS + 1000 * second


def measured_by_day(*splits):
    """The drift of `splits`: the number, the texts and the times of each, in this order."""
    x, kinds, times = zip(*splits, strict=True)
    how = TaskSettings(
        definitions=("user",),
        validation_start=int(times[1].min()),
        test_start=int(times[2].min()),
    )
    return measured(np.concatenate(x), np.concatenate(kinds).tolist(), np.concatenate(times), how)


@pytest.mark.parametrize("test_days", [[23], [23, 24, 25, 26, 27, 28, 29]])
def test_the_weekday_does_not_drift_if_the_evaluation_rows_lie_on_other_weekdays(test_days):
    found = measured_by_day(weekdays(range(21)), weekdays([21, 22]), weekdays(test_days))
    assert {split["drift"] for kind in found.values() for split in list(kind.values())[1:]} == {0.0}
    assert drift.warnings(found) == []


def test_a_weekday_that_the_training_rows_lack_drifts():
    found = measured_by_day(
        weekdays([0, 1, 2, 3, 4]), weekdays([5, 6]), weekdays([7, 8, 9, 10, 11])
    )
    assert found["kind"]["validation"] == {"drift": 1.0, "uncertain": False}
    assert found["kind"]["test"]["drift"] == 0.0
    assert [line.split(":")[0] for line in drift.warnings(found)] == [
        "feature x drifts",
        "feature kind drifts",
    ]


def test_what_changes_on_the_same_weekdays_drifts():
    x, kinds, times = weekdays([21, 22])
    later = (x + 9, np.full_like(kinds, "new"), times)
    found = measured_by_day(weekdays(range(21)), later, weekdays([23]))
    # The means are 3 of all training rows, 0.5 of those of the same weekdays, and 9.5.
    assert found["x"]["validation"] == {"drift": 3.25, "uncertain": False}
    assert found["kind"]["validation"] == {"drift": 1.0, "uncertain": False}
    assert len(drift.warnings(found)) == 2


@pytest.fixture
def uneven():
    """Training rows of six days, and nine odd ones of the seventh, a Thursday."""
    odd = (np.zeros(9), np.full(9, "odd"), np.full(9, 21 * DAY_MS))
    rows = weekdays([22, 23, 24, 25, 26, 27])
    return tuple(np.concatenate(pair) for pair in zip(odd, rows, strict=True))


def test_rows_like_all_training_rows_do_not_drift_whatever_those_of_their_weekday_are(uneven):
    x, kinds, times = uneven
    thursday = (x, kinds, np.full_like(times, 28 * DAY_MS))
    found = measured_by_day(uneven, thursday, weekdays([29]))
    assert found["x"]["validation"]["drift"] == found["kind"]["validation"]["drift"] == 0.0


def test_a_few_training_rows_of_the_same_weekday_do_not_make_a_drift_uncertain(uneven):
    x, kinds, times = uneven
    thursday = (x + 9, np.full_like(kinds, "new"), np.full_like(times, 28 * DAY_MS))
    found = measured_by_day(uneven, thursday, weekdays([29]))
    assert found["kind"]["validation"] == {"drift": 1.0, "uncertain": False}
    assert not found["x"]["validation"]["uncertain"]


def test_rows_of_one_distribution_do_not_drift():
    draw = np.random.default_rng(0)
    n = 900
    kinds = draw.choice(list("abcdefghij"), 3 * n).tolist()
    found = measured(draw.normal(size=3 * n), kinds, np.repeat([5, 15, 25], n))
    assert drift.warnings(found) == []
    few = measured([0.0, 0.0, 9.0], ["a", "a", "b"], [5, 5, 15])
    assert few["x"]["validation"]["uncertain"]
    assert drift.warnings(few) == []


def test_a_constant_does_not_drift_whatever_the_weekdays_of_the_rows_are():
    splits = []
    for days in (range(1, 20), [21, 22, 24], [25]):
        _, kinds, times = weekdays(days)
        splits.append((np.full(len(times), 123.456), np.full_like(kinds, "a"), times))
    found = measured_by_day(*splits)
    assert found["x"]["validation"] == {"drift": 0.0, "uncertain": True}
    assert drift.warnings(found) == []


@pytest.mark.parametrize(("rows", "uncertain"), [(199, True), (200, False)])
def test_the_mean_of_a_few_rows_is_uncertain_whatever_its_difference(rows, uncertain):
    train, later = np.zeros(1000), np.full(rows, 9.0)
    train[::2] = 1.0
    found = measured(
        np.concatenate([train, later]), ["a"] * (1000 + rows), [5] * 1000 + [15] * rows
    )
    assert found["x"]["validation"]["drift"] > 10
    assert found["x"]["validation"]["uncertain"] == uncertain
