"""Gains of effects that are estimated from earlier rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from tfrec_limaml.diagnosis.history_gain import Rows, _effects, history_gain
from tfrec_limaml.evaluation import auc


def _rows(tau, seed=0, tasks=800, earlier=12, later=6):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), earlier + later)
    offset = rng.normal(size=len(task))
    effect = tau * rng.normal(size=tasks)[task]
    label = (rng.random(len(task)) < 1 / (1 + np.exp(-offset - effect))).astype(float)
    query = np.tile(np.arange(earlier + later) >= earlier, tasks)
    return Rows(label, offset, task, query), effect


def test_an_effect_is_the_mode_of_its_posterior_given_the_earlier_rows():
    rows, _ = _rows(1.0, tasks=6)
    actual = _effects(rows, np.arange(len(rows.task)), rows.task, 0.7)
    for task in range(6):
        mine = (rows.task == task) & ~rows.later
        expected = brentq(_slope, -5, 5, (rows.label[mine], rows.offset[mine], 0.7))
        np.testing.assert_allclose(actual[rows.task == task], expected, atol=1e-6)


def _slope(effect, label, offset, tau):
    """Derivative of the log posterior."""
    return (label - 1 / (1 + np.exp(-offset - effect))).sum() - effect / tau**2


def test_later_rows_tell_nothing_about_the_effects():
    rows, _ = _rows(1.0, tasks=6)
    label = np.where(rows.later, 1 - rows.label, rows.label)
    other = Rows(label, rows.offset, rows.task, rows.later)
    arguments = np.arange(len(rows.task)), rows.task, 0.7
    np.testing.assert_array_equal(_effects(rows, *arguments), _effects(other, *arguments))


@pytest.mark.parametrize("tau", [0.8, 1.5])
def test_the_gain_lies_between_none_and_that_of_knowing_the_effects(tau):
    rows, effect = _rows(tau)
    later = rows.later
    known = auc(rows.label[later], (rows.offset + effect)[later])
    most = known - auc(rows.label[later], rows.offset[later])
    actual = history_gain(rows)
    assert 0 < actual.low < actual.value < most
    assert actual.value > 0.5 * most
    assert actual.high >= actual.value


def test_where_tasks_do_not_differ_the_interval_rules_a_gain_out_with_many_rows_only():
    many, few = (history_gain(_rows(0.0, tasks=tasks)[0]) for tasks in (3000, 15))
    assert many.low <= 0 <= many.high < 0.005
    assert few.low <= 0 < 0.01 < few.high


def test_a_row_of_more_than_one_group_takes_their_mean_effect():
    rows, _ = _rows(0.0, tasks=2, earlier=2, later=1)
    row = np.array([0, 1, 2, 2, 3, 4, 5])
    group = np.array([0, 1, 0, 1, 2, 2, 2])
    effect = _effects(rows, row, group, 1.0)
    alone = [_effects(rows, row[group == g], group[group == g], 1.0) for g in (0, 1)]
    np.testing.assert_allclose(effect[2], (alone[0][0] + alone[1][1]) / 2)
