"""Known differences between tasks are recovered, and none are found where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml.diagnosis.random_intercept import (
    expected_auc,
    group_deviation,
    oracle_gain,
    recalibrate,
    task_deviation,
)
from tfrec_limaml.evaluation import auc


def _world(tau, tau_group, seed=0, tasks=1200):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), rng.integers(1, 10, tasks))
    category = rng.integers(0, 5, len(task))
    group = np.unique(task * 5 + category, return_inverse=True)[1]
    logit = 0.7 * rng.normal(size=len(task)) - 0.8
    effect = (
        tau * rng.normal(size=tasks)[task] + tau_group * rng.normal(size=group.max() + 1)[group]
    )
    label = (rng.random(len(task)) < 1 / (1 + np.exp(-logit - effect))).astype(float)
    return label, logit, task, category


@pytest.mark.parametrize("tau", [0.4, 1.0, 1.6])
def test_a_known_deviation_between_tasks_lies_in_its_interval(tau):
    label, logit, task, _ = _world(tau, 0)
    actual = task_deviation(label, recalibrate(label, logit), task)
    assert actual.low < tau < actual.high
    assert actual.high - actual.low < 0.45
    assert abs(actual.value - tau) < 0.2


def test_shuffled_task_keys_leave_no_deviation():
    label, logit, task, category = _world(1.0, 0.8, tasks=500)
    shuffled = np.random.default_rng(1).permutation(task)
    offset = recalibrate(label, logit)
    actual = task_deviation(label, offset, shuffled)
    assert actual.low == 0
    assert actual.value < 0.35
    assert group_deviation(label, offset, shuffled, category, actual.value).low == 0


def test_a_liking_of_tasks_for_categories_is_told_from_their_level():
    for tau_group in (0.0, 0.9):
        label, logit, task, category = _world(0.5, tau_group, tasks=700)
        offset = recalibrate(label, logit)
        between = task_deviation(label, offset, task)
        actual = group_deviation(label, offset, task, category, between.value)
        assert actual.low <= tau_group <= actual.high
        assert (actual.low > 0) == (tau_group > 0)


def test_an_interval_holds_zero_as_often_as_it_says_where_tasks_do_not_differ():
    zero = 0
    for seed in range(20):
        label, logit, task, _ = _world(0, 0, seed, tasks=150)
        zero += task_deviation(label, recalibrate(label, logit), task).low == 0
    assert zero >= 17


def test_recalibration_undoes_a_stretch_and_a_shift():
    label, logit, *_ = _world(0, 0, tasks=4000)
    np.testing.assert_allclose(
        recalibrate(label, 3 * logit - 2), recalibrate(label, logit), atol=1e-4
    )
    assert abs(np.polyfit(logit, recalibrate(label, logit), 1)[0] - 1) < 0.15


def test_an_oracle_gains_where_tasks_differ_only_and_the_more_they_do():
    _, logit, task, category = _world(0, 0)
    group = np.unique(task * 5 + category, return_inverse=True)[1]
    assert oracle_gain(logit, task, 0.0) == 0.0
    assert 0 < oracle_gain(logit, task, 0.4) < oracle_gain(logit, task, 0.8)
    assert oracle_gain(logit, task, 0.5, group, 0.0) == 0.0
    assert oracle_gain(logit, task, 0.5, group, 0.8) > 0.01


def test_simulated_gains_match_the_auc_of_scores_that_know_the_effects():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(4000), 5)
    logit = rng.normal(size=len(task))
    effect = 0.9 * rng.normal(size=4000)[task]
    label = (rng.random(len(task)) < 1 / (1 + np.exp(-logit - effect))).astype(float)
    real = auc(label, logit + effect) - auc(label, logit)
    offset = recalibrate(label, logit)
    oracle = oracle_gain(offset, task, task_deviation(label, offset, task).value)
    assert abs(oracle - real) < 0.012


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=20))
def test_expected_auc_of_certain_labels_is_their_auc(rows):
    label, score = (np.array(column, float) for column in zip(*rows, strict=True))
    if 0 < label.sum() < len(label):
        np.testing.assert_allclose(expected_auc(label, score), auc(label, score), atol=1e-12)
