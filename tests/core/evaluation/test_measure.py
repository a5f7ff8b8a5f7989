"""Metrics of scored rows, by slice and cohort."""

from __future__ import annotations

import numpy as np
import pytest

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import cohorts, measure

DAY = 86_400_000


def _rows(tasks=40, per_task=4, seed=0):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), per_task)
    return {
        "task_key": np.array([f"t{t:03}".encode() for t in task], object),
        "label": rng.integers(0, 2, len(task)).astype("f"),
        "probability": rng.random(len(task)).astype("f"),
        "history": task % 30,
        "timestamp": np.full(len(task), 100 * DAY) + np.tile(np.arange(per_task), tasks),
        "last_seen": np.where(task < 10, 0, np.where(task < 15, 90 * DAY, 99 * DAY)),
    }


def test_slices_cover_all_rows_once_and_cohorts_say_who_is_cold_dormant_or_active():
    rows = _rows()
    trained = {f"t{t:03}".encode() for t in range(10, 40)}
    actual = measure(rows, trained_keys=trained, dormant_days=7)
    assert sum(part["rows"] for part in actual["slices"]) == actual["rows"] == 160
    assert {part["slice"]: part["tasks"] for part in actual["cohorts"]} == {
        "cold": 10,
        "dormant": 5,
        "active": 25,
        "under 25 rows": 40,
    }
    assert dict(cohorts(rows, trained, dormant_days=20))["dormant"].sum() == 0
    silent = {**rows, "last_seen": np.where(rows["task_key"] == b"t012", 0, rows["last_seen"])}
    dormant = dict(cohorts(silent, trained, dormant_days=20))["dormant"]
    assert set(rows["task_key"][dormant]) == {b"t012"}  # all its rows are older than the window


def test_a_silence_is_measured_to_the_first_scored_row_of_the_task():
    rows = _rows(tasks=1, per_task=3)
    rows["last_seen"][:] = 99 * DAY
    rows["timestamp"][:] = np.array([100, 110, 120]) * DAY
    assert not dict(cohorts(rows))["dormant"].any()


@pytest.mark.parametrize(("silence", "dormant"), [(7 * DAY, False), (7 * DAY + 1, True)])
def test_a_task_is_dormant_after_more_than_the_given_days(silence, dormant):
    rows = _rows(tasks=1, per_task=1)
    rows["last_seen"][:] = rows["timestamp"] - silence
    assert dict(cohorts(rows))["dormant"].any() == dormant


def test_a_task_without_support_rows_is_not_called_dormant_if_it_may_be_new():
    rows = _rows(tasks=1)
    assert not rows["last_seen"].any()
    assert not dict(cohorts(rows))["dormant"].any()
    assert dict(cohorts(rows, [b"t000"]))["dormant"].all()


def test_the_papers_slices_count_a_tasks_scored_rows():
    rows = {
        name: np.concatenate([a, b])
        for (name, a), b in zip(_rows(1, 24).items(), _rows(2, 25).values(), strict=True)
    }
    rows["task_key"][:24] = b"few"
    groups = dict(cohorts(rows))
    assert groups["under 25 rows"].sum() == 24
    assert groups["25 rows or more"].sum() == 50


def test_the_gain_over_the_reference_is_the_difference_of_the_aucs():
    rows, other = _rows(), _rows(seed=1)["probability"]
    actual = measure(rows, reference=other)
    expected = actual["auc"] - measure({**rows, "probability": other})["auc"]
    np.testing.assert_allclose(actual["gain"], expected, atol=1e-12)
    assert actual["gain_low"] < actual["gain"] < actual["gain_high"]


def test_degenerate_metrics_are_noted_and_warned_of():
    rows = _rows()
    rows["label"][:] = 1
    with pytest.warns(UserWarning, match="all 160 labels are of one class"):
        assert np.isnan(measure(rows)["auc"])
    with pytest.warns(UserWarning, match="fewer than 30 tasks"):
        assert measure(_rows(tasks=5))["note"] == "fewer than 30 tasks"


def test_scores_that_are_not_numbers_are_refused_and_not_ranked_first():
    rows = _rows()
    rows["probability"][:3] = np.nan
    with pytest.raises(LimamlError, match=r"3 of 160 scores are not numbers .*diverged"):
        measure(rows)


def test_rows_without_probabilities_or_no_rows_are_refused():
    rows = _rows()
    with pytest.raises(LimamlError, match="no query rows"):
        measure({name: values[:0] for name, values in rows.items()})
    rows["prediction"] = rows.pop("probability")
    with pytest.raises(LimamlError, match="'probability'"):
        measure(rows)
