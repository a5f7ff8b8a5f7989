"""Metrics against brute force, against simulation, and against each other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import (
    auc,
    auc_difference,
    auc_interval,
    calibration,
    calibration_curve,
    log_loss,
    per_task_auc,
)
from tfrec_limaml.evaluation.metrics import grouped_auc, ndcg

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=40
)


def _columns(rows):
    task, label, score = (np.array(column) for column in zip(*rows, strict=True))
    return task, label.astype("f"), score.astype("f") / 5


def _pairs_won(label, score):
    """The definition: the share of (positive, negative) pairs in the right order, ties half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    return float(np.mean(pairs)) if pairs else float("nan")


def _clustered_world(rng, tasks=60, rows=8, spread=1.5):
    """Rows whose label and score share an effect of their task."""
    task = np.repeat(np.arange(tasks), rows)
    effect = spread * rng.normal(size=tasks)[task]
    score = effect + rng.normal(size=len(task))
    label = (rng.normal(size=len(task)) + effect + 0.5 * score > 0).astype(float)
    return task, label, score


@given(ROWS)
def test_auc_is_the_share_of_pairs_in_order_with_ties_half(rows):
    _, label, score = _columns(rows)
    np.testing.assert_allclose(
        auc(label, score), _pairs_won(label, score), atol=1e-12, equal_nan=True
    )
    np.testing.assert_allclose(
        auc_interval(label, score).value, auc(label, score), atol=1e-12, equal_nan=True
    )


@given(ROWS)
def test_per_task_auc_is_the_mean_over_a_loop_of_tasks_with_both_classes(rows):
    task, label, score = _columns(rows)
    values = [_pairs_won(label[task == t], score[task == t]) for t in np.unique(task)]
    known = [v for v in values if not np.isnan(v)]
    mean, count = per_task_auc(np.array([f"t{t}".encode() for t in task], object), label, score)
    assert count == len(known)
    np.testing.assert_allclose(
        mean, np.mean(known) if known else np.nan, atol=1e-12, equal_nan=True
    )


def test_per_task_auc_of_no_rows_is_undefined():
    mean, count = per_task_auc(np.array([]), np.array([]), np.array([]))
    assert np.isnan(mean)
    assert count == 0


@given(ROWS)
def test_the_interval_holds_the_value_and_does_not_depend_on_the_order_of_rows(rows):
    task, label, score = _columns(rows)
    value, low, high = auc_interval(label, score, task)
    assert np.isnan(value) or 0 <= low <= value <= high <= 1
    np.testing.assert_allclose(
        auc_interval(label[::-1], score[::-1], task[::-1]),
        (value, low, high),
        atol=1e-9,
        equal_nan=True,
    )


def test_with_rows_as_clusters_the_variance_is_delongs():
    rng = np.random.default_rng(0)
    label, score = (rng.random(50) < 0.4).astype(float), rng.normal(size=50).round(1)
    wins = np.array(
        [[(p > n) + 0.5 * (p == n) for n in score[label == 0]] for p in score[label == 1]]
    )
    m, n = wins.shape
    variance = wins.mean(1).var(ddof=1) / m + wins.mean(0).var(ddof=1) / n
    value, low, high = auc_interval(label, score, z=1.0)
    np.testing.assert_allclose([value - low, high - value], np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(
        auc_interval(label, score, np.arange(50)), auc_interval(label, score), rtol=1e-12
    )


def test_with_tasks_as_clusters_the_variance_is_obuchowskis():
    rng = np.random.default_rng(2)
    label, score = (rng.random(40) < 0.4).astype(float), rng.normal(size=40).round(1)
    task = rng.integers(0, 7, 40)
    wins = np.array(
        [[(p > n) + 0.5 * (p == n) for n in score[label == 0]] for p in score[label == 1]]
    )
    of_positive, of_negative = wins.mean(1) - wins.mean(), wins.mean(0) - wins.mean()
    m, n = wins.shape
    sums = np.array(
        [
            [of_positive[task[label == 1] == t].sum(), of_negative[task[label == 0] == t].sum()]
            for t in range(7)
        ]
    )
    with_positive, with_negative = len(set(task[label == 1])), len(set(task[label == 0]))
    variance = with_positive / (with_positive - 1) * np.square(sums[:, 0] / m).sum()
    variance += with_negative / (with_negative - 1) * np.square(sums[:, 1] / n).sum()
    variance += 2 * 7 / 6 * (sums[:, 0] / m * sums[:, 1] / n).sum()
    value, low, _ = auc_interval(label, score, task, z=1.0)
    np.testing.assert_allclose(value - low, np.sqrt(variance), rtol=1e-9)


def test_intervals_by_task_cover_the_truth_where_those_by_row_do_not():
    rng = np.random.default_rng(1)
    truth = np.mean([auc(*_clustered_world(rng, tasks=2000)[1:]) for _ in range(10)])
    covered = {"task": 0, "row": 0}
    for _ in range(300):
        task, label, score = _clustered_world(rng)
        for name, cluster in (("task", task), ("row", None)):
            _, low, high = auc_interval(label, score, cluster)
            covered[name] += low <= truth <= high
    assert 0.91 <= covered["task"] / 300 <= 0.98
    assert covered["row"] / 300 < 0.88


def test_intervals_of_independent_rows_cover_the_truth():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        label = np.repeat([0.0, 1.0], 60)
        _, low, high = auc_interval(label, rng.normal(size=120) + label)
        covered += low <= 0.7602499 <= high  # Phi(1 / sqrt 2)
    assert 0.92 <= covered / 400 <= 0.975


def test_the_paired_difference_covers_the_truth_and_is_narrower_than_two_intervals():
    rng = np.random.default_rng(3)
    covered, narrower = 0, 0
    for _ in range(300):
        task, label, score = _clustered_world(rng)
        noisy = score + 0.3 * rng.normal(size=len(score))
        also = score + 0.3 * rng.normal(
            size=len(score)
        )  # as good as the other: the difference is 0
        _, low, high = auc_difference(label, noisy, also, task)
        covered += low <= 0 <= high
        narrower += high - low < np.diff(auc_interval(label, noisy, task)[1:])[0]
    assert 0.91 <= covered / 300 <= 0.985
    assert narrower == 300


def test_the_difference_to_itself_is_zero():
    task, label, score = _clustered_world(np.random.default_rng(4))
    np.testing.assert_allclose(auc_difference(label, score, score, task), 0, atol=1e-12)


@pytest.mark.parametrize("label", [np.zeros(5), np.ones(5), np.zeros(0)])
def test_one_class_has_no_auc_and_no_warning_of_numpy(label):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(auc(label, label))
        assert np.isnan(auc_interval(label, label)).all()
        assert np.isnan(auc_difference(label, label, label)).all()


def test_a_single_positive_row_makes_a_wide_interval_rather_than_none():
    _, low, high = auc_interval(np.array([1.0, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3]))
    assert low < 0.1
    assert high == 1.0


def test_log_loss_is_the_mean_surprise_and_survives_certainty():
    label, p = np.array([1.0, 0.0, 1.0]), np.array([0.8, 0.4, 0.5])
    np.testing.assert_allclose(log_loss(label, p), -(np.log(0.8) + np.log(0.6) + np.log(0.5)) / 3)
    certain = log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0]))  # a wrong certainty
    np.testing.assert_allclose(certain, -np.log(1e-7))


def test_calibration_is_expected_over_observed_overall_and_by_bin():
    rng = np.random.default_rng(5)
    p = rng.random(20_000)
    label = (rng.random(20_000) < p).astype(float)
    assert abs(calibration(label, p) - 1) < 0.02
    np.testing.assert_allclose(calibration(label, 1.3 * p), 1.3 * calibration(label, p))
    curve = calibration_curve(label, p)
    assert sum(b["rows"] for b in curve) == 20_000
    assert all(abs(b["expected"] - b["observed"]) < 0.04 for b in curve)
    assert [b["expected"] for b in curve] == sorted(b["expected"] for b in curve)
    assert np.isnan(calibration(np.zeros(3), np.ones(3)))


@pytest.mark.parametrize("metric", [per_task_auc, grouped_auc, ndcg])
def test_scores_that_are_not_numbers_have_no_order(metric):
    task, label = np.array([1, 1, 2, 2]), np.array([0.0, 1.0, 1.0, 0.0])
    with pytest.raises(LimamlError, match="2 of 4 scores are not numbers"):
        metric(task, label, np.array([0.1, np.nan, np.nan, 0.2]))
