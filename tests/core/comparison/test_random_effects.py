"""Random effects per task: the solver, its weights, and the penalty of the intercept."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy.optimize import minimize

from tfrec_limaml.comparison import random_effects
from tfrec_limaml.comparison.random_effects import fit_task, with_intercept
from tfrec_limaml.evaluation.metrics import auc


@pytest.mark.parametrize("rows", [6, 9, 30])
def test_random_effects_solve_the_penalised_logistic_regression(rows):
    """With fewer rows than features, as many, and more: the equations are those of the fewer."""
    random = np.random.default_rng(2)
    inputs, offset = random.normal(size=(rows, 9)), random.normal(size=rows)
    label = np.resize([0.0, 1, 1, 0, 1, 0], rows)
    actual = fit_task(inputs, label, offset, penalty=2.0)
    probability = 1 / (1 + np.exp(-(offset + inputs @ actual)))
    gradient = inputs.T @ (probability - label) + 2.0 * actual
    np.testing.assert_allclose(gradient, np.zeros(9), atol=1e-6)


@pytest.mark.parametrize("intercepts", [random_effects.INTERCEPT_PENALTIES, (np.inf,)])
def test_random_effects_learn_levels_of_members_where_no_feature_is_constant(
    intercepts, monkeypatch
):
    monkeypatch.setattr(random_effects, "INTERCEPT_PENALTIES", intercepts)
    random = np.random.default_rng(5)
    levels, rows, inputs, logits = random.normal(0, 2, 60), {}, {}, {}
    for split, count in (("train", 12), ("validation", 6), ("test", 12)):
        member = np.repeat(np.arange(60), count)
        label = (random.random(len(member)) < 1 / (1 + np.exp(-levels[member]))).astype(float)
        rows[split] = types.SimpleNamespace(
            task_key=member, label=label, weight=np.ones(len(member))
        )
        inputs[split] = random.normal(size=(len(member), 2))
        logits[split] = np.zeros(len(member))
    outcome = random_effects.random_effects(rows, logits, inputs)
    has_intercept = len(intercepts) > 1
    assert (auc(rows["test"].label, outcome.served) > 0.75) == has_intercept
    assert (outcome.settings["intercept_penalty"] is not None) == has_intercept


def test_penalties_are_tried_from_the_largest_until_two_in_a_row_are_no_better():
    scores = {5.0: 0.1, 4.0: 0.3, 3.0: 0.2, 2.0: 0.4, 1.0: 0.4, 0.5: 0.2, 0.1: 0.9}
    tried = []

    def score(penalty):
        tried.append(penalty)
        return scores[penalty]

    assert random_effects._best(list(scores), score) == (2.0, 0.4)
    assert tried == [5.0, 4.0, 3.0, 2.0, 1.0, 0.5]


def test_random_effects_that_only_overfit_are_all_but_removed():
    random = np.random.default_rng(6)
    rows, inputs, logits = {}, {}, {}
    for split, count in (("train", 12), ("validation", 40), ("test", 40)):
        member = np.repeat(np.arange(60), count)
        logits[split] = random.normal(size=len(member))
        label = (random.random(len(member)) < 1 / (1 + np.exp(-logits[split]))).astype(float)
        rows[split] = types.SimpleNamespace(
            task_key=member, label=label, weight=np.ones(len(member))
        )
        inputs[split] = 5 * random.normal(size=(len(member), 30))
    outcome = random_effects.random_effects(rows, logits, inputs)
    without = auc(rows["test"].label, logits["test"])
    assert abs(auc(rows["test"].label, outcome.served) - without) < 0.002


@pytest.mark.parametrize("intercept_penalty", [0.5, 7.0, np.inf])
def test_the_intercept_of_a_random_effect_has_a_penalty_of_its_own(intercept_penalty):
    random = np.random.default_rng(4)
    inputs, offset = random.normal(size=(6, 3)), random.normal(size=6)
    label = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    extended = with_intercept(inputs, 2.0, intercept_penalty)
    coefficients = fit_task(extended, label, offset, penalty=2.0)
    rest = 1 / (1 + np.exp(-(offset + extended @ coefficients))) - label
    np.testing.assert_allclose(inputs.T @ rest, -2.0 * coefficients[:3], atol=1e-6)
    intercept = extended[0, 3] * coefficients[3]
    if np.isinf(intercept_penalty):
        assert intercept == 0
    else:
        np.testing.assert_allclose(rest.sum(), -intercept_penalty * intercept, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.3, 3.0, 30.0])
def test_the_solver_finds_the_minimum_where_positives_are_rare_and_inputs_large(penalty):
    random = np.random.default_rng(5)
    inputs = random.normal(size=(60, 40)) * random.choice([0.3, 6.0], 40)
    offset = random.normal(size=60) * 4 - 3
    label, weight = (random.random(60) < 0.05).astype(float), random.uniform(0, 3, 60)

    def objective(coefficients):
        logit = offset + inputs @ coefficients
        loss = weight @ (np.logaddexp(0, logit) - label * logit)
        slope = inputs.T @ (weight * (1 / (1 + np.exp(-logit)) - label)) + penalty * coefficients
        return loss + penalty / 2 * coefficients @ coefficients, slope

    best = minimize(objective, np.zeros(40), jac=True, method="L-BFGS-B", tol=1e-12)
    actual = fit_task(inputs, label, offset, penalty, weight)
    assert objective(actual)[0] <= best.fun * (1 + 1e-6) + 1e-6


def test_a_row_of_weight_2_counts_as_two_rows():
    random = np.random.default_rng(6)
    inputs, offset = random.normal(size=(8, 3)), random.normal(size=8)
    label, weight = (np.arange(8) % 3 == 0).astype(float), np.where(np.arange(8) < 4, 2.0, 1.0)
    twice = np.repeat(np.arange(8), weight.astype(int))
    np.testing.assert_allclose(
        fit_task(inputs, label, offset, 2.0, weight),
        fit_task(inputs[twice], label[twice], offset[twice], 2.0),
        atol=1e-7,
    )
