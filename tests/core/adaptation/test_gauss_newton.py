"""Closed-form adaptation against closed forms, an independent solution and finite differences."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.adaptation.gauss_newton import gauss_newton, solve_positive_definite
from tfrec_limaml.adaptation.losses import loss_derivatives

pytestmark = pytest.mark.usefixtures("optimised_graphs")

TASKS, SAMPLES, WIDTH = 5, 7, 3


@pytest.fixture(params=[True, False], ids=["linear", "any outputs"])
def solve(request):
    """`_solve` for outputs that are said to be linear, as these are, and for any outputs."""
    return functools.partial(_solve, linear=request.param)


def _world(seed=0):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(TASKS, SAMPLES, WIDTH))
    base = random.normal(size=(TASKS, SAMPLES))
    label = (random.random((TASKS, SAMPLES)) < 0.5).astype(float)
    weight = random.random((TASKS, SAMPLES)) * (random.random((TASKS, SAMPLES)) < 0.8)
    weight[1] = 0  # a task without rows
    return inputs, base, label, weight, np.array([0.5, 1.0, 4.0])


def _solve(world, steps, loss="binary_crossentropy", **options):
    inputs, base, label, weight, precision = map(tf.constant, world)

    def outputs(rows):
        return base + tf.reduce_sum(rows * inputs, -1)

    derivatives = loss_derivatives(loss)
    return gauss_newton(
        outputs, lambda z: derivatives(label, z), weight, precision, steps, **options
    )


def _newton(inputs, base, label, weight, precision):
    """Penalised logistic regression of one task, by damped Newton steps to convergence."""
    theta = np.zeros(WIDTH)
    for _ in range(100):
        p = 1 / (1 + np.exp(-(base + inputs @ theta)))
        gradient = inputs.T @ (weight * (p - label)) + precision * theta
        hessian = (inputs.T * (weight * p * (1 - p))) @ inputs + np.diag(precision)
        theta = theta - np.linalg.solve(hessian, gradient)
    return theta, np.linalg.inv(hessian)


def test_the_mode_is_that_of_bayesian_logistic_regression(solve):
    world = _world()
    inputs, base, label, weight, precision = world
    solved = solve(world, 10, with_variance=True)
    for task in range(TASKS):
        mode, covariance = _newton(inputs[task], base[task], label[task], weight[task], precision)
        np.testing.assert_allclose(solved.offset[task], mode, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(solved.variance[task], np.diag(covariance), rtol=1e-6)


def test_a_task_without_rows_stays_at_the_prior(solve):
    solved = solve(_world(), 2, with_variance=True)
    np.testing.assert_array_equal(solved.offset[1], np.zeros(WIDTH))  # a solve with zeros
    np.testing.assert_allclose(solved.variance[1], 1 / _world()[-1], rtol=1e-12)


def test_a_prior_mean_is_where_a_task_without_rows_stays_and_others_are_drawn_to(solve):
    """The same problem, written about the mean: another fixed term and the offset's difference."""
    inputs, base, label, weight, precision = world = _world()
    mean = np.random.default_rng(4).normal(size=(TASKS, WIDTH))
    solved = solve(world, 10, prior_mean=tf.constant(mean))
    np.testing.assert_allclose(solved.offset[1], mean[1], rtol=1e-12)
    for task in range(TASKS):
        moved = base[task] + inputs[task] @ mean[task]
        mode, _ = _newton(inputs[task], moved, label[task], weight[task], precision)
        np.testing.assert_allclose(solved.offset[task], mean[task] + mode, rtol=1e-9, atol=1e-12)


def test_under_a_squared_error_one_step_is_ridge_regression(solve):
    inputs, base, label, weight, precision = _world()
    solved = solve(_world(), 1, "mean_squared_error")
    for task in range(TASKS):
        scaled = inputs[task].T * (2 * weight[task])
        expected = np.linalg.solve(
            scaled @ inputs[task] + np.diag(precision), scaled @ (label[task] - base[task])
        )
        np.testing.assert_allclose(solved.offset[task], expected, rtol=1e-9, atol=1e-12)


def test_more_rows_of_the_same_kind_move_a_task_further(solve):
    inputs, base, label, weight, precision = _world()
    twice = [np.concatenate([part, part], 1) for part in (inputs, base, label, weight)]
    once, more = (solve((*parts, precision), 5) for parts in ((inputs, base, label, weight), twice))
    lengths = [np.linalg.norm(solved.offset, axis=-1) for solved in (once, more)]
    assert (lengths[1] >= lengths[0]).all()
    assert lengths[1][0] > 1.05 * lengths[0][0]


def test_padding_and_neighbours_change_nothing(solve):
    inputs, base, label, weight, precision = _world()
    pad = [(0, 0), (0, 3)]
    wide = (
        np.pad(inputs, [*pad, (0, 0)], constant_values=9.0),
        np.pad(base, pad, constant_values=5.0),
        np.pad(label, pad),
        np.pad(weight, pad),
        precision,
    )
    alone = tuple(part[2:3] for part in (inputs, base, label, weight))
    expected = solve(_world(), 3).offset
    np.testing.assert_allclose(solve(wide, 3).offset, expected, rtol=1e-10)
    np.testing.assert_allclose(solve((*alone, precision), 3).offset[0], expected[2], rtol=1e-10)


def test_the_losses_are_weighted_means_before_each_step(solve):
    _, base, label, weight, _ = _world()
    solved = solve(_world(), 3)
    loss = np.log1p(np.exp(base)) - label * base
    expected = (weight * loss).sum(1) / np.maximum(weight.sum(1), 1e-12)
    np.testing.assert_allclose(solved.losses[0], expected, rtol=1e-9, atol=1e-12)
    assert (solved.losses[2] <= solved.losses[0]).numpy().all()


@pytest.mark.parametrize("part", ["matrix", "target"])
def test_the_gradient_of_the_solve_is_that_of_finite_differences(part):
    random = np.random.default_rng(3)
    root = random.normal(size=(2, WIDTH, WIDTH))
    matrix = root @ root.transpose(0, 2, 1) + 2 * np.eye(WIDTH)
    target, weights = random.normal(size=(2, 2, WIDTH))

    def total(matrix, target):
        return tf.reduce_sum(weights * solve_positive_definite(matrix, target))

    values = {"matrix": tf.constant(matrix), "target": tf.constant(target)}
    with tf.GradientTape() as tape:
        tape.watch(values[part])
        result = total(**values)
    actual = tape.gradient(result, values[part]).numpy()
    direction = random.normal(size=actual.shape)
    if part == "matrix":  # only symmetric changes make sense
        direction = direction + direction.transpose(0, 2, 1)
    step = 1e-6
    ends = [
        float(total(**{**values, part: values[part] + sign * step * direction})) for sign in (1, -1)
    ]
    np.testing.assert_allclose((actual * direction).sum(), (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_half_precision_inputs_are_solved_in_single_precision():
    inputs, base, label, weight, precision = _world()
    half = tf.constant(inputs, tf.float16)

    def outputs(rows):
        scores = tf.reduce_sum(tf.cast(rows, tf.float16) * half, -1)
        return tf.constant(base, tf.float16) + scores

    derivatives = loss_derivatives("binary_crossentropy")
    solved = gauss_newton(
        outputs,
        lambda z: derivatives(tf.constant(label, z.dtype), z),
        tf.constant(weight, tf.float32),
        tf.constant(precision, tf.float32),
        2,
    )
    assert solved.offset.dtype == tf.float32
    np.testing.assert_allclose(solved.offset, _solve(_world(), 2).offset, atol=2e-2)


def test_a_step_that_would_overshoot_is_shortened(solve):
    """A confident wrong row has hardly any curvature: a full step goes a hundred times too far."""
    inputs, base, label = np.ones((1, 1, 1)), np.full((1, 1), -8.0), np.ones((1, 1))
    precision = np.array([0.001])
    world = (inputs, base, label, np.ones((1, 1)), precision)

    def objective(offset):
        return np.log1p(np.exp(-(base[0, 0] + offset))) + 0.5 * precision[0] * offset**2

    values = [objective(0.0)]
    values += [objective(float(solve(world, steps).offset[0, 0])) for steps in (1, 2, 4, 30)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 10


def _solve_one(derivatives, precision=0.0001, steps=1, **options):
    """The offset of a task with one row, whose output is the offset."""
    one = tf.ones((1, 1), tf.float64)
    prior = tf.constant([precision], tf.float64)
    solved = gauss_newton(lambda rows: rows[..., 0], derivatives, one, prior, steps, **options)
    return float(solved.offset[0, 0])


@pytest.mark.parametrize("linear", [True, False])
def test_a_task_stays_where_each_share_of_the_step_makes_it_worse(linear):
    def uphill(outputs):  # the slope has the wrong sign
        return outputs, -tf.ones_like(outputs), tf.ones_like(outputs)

    assert _solve_one(uphill, linear=linear) == 0.0


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("beyond", [np.inf, np.nan])
def test_a_step_is_shortened_until_the_loss_is_finite(beyond, linear):
    def derivatives(outputs):
        loss = tf.where(outputs > 0.3, tf.constant(beyond, outputs.dtype), -outputs)
        return loss, -tf.ones_like(outputs), tf.ones_like(outputs)

    assert _solve_one(derivatives, linear=linear) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("extra", "share"), [(1e-6, 1.0), (1e-3, 0.5)])
def test_a_longer_step_is_taken_if_a_shorter_one_is_better_by_rounding_errors_only(extra, share):
    def derivatives(outputs):  # as good at half of the step, but for `extra`
        loss = tf.where(outputs > 0.75, tf.constant(extra, outputs.dtype), 0.0)
        loss += tf.where(outputs < 0.4, tf.ones_like(outputs), 0.0)
        return loss, -tf.ones_like(outputs), tf.ones_like(outputs)

    assert _solve_one(derivatives, precision=1e-9) == pytest.approx(share, rel=1e-6)


def test_a_row_without_curvature_still_moves_its_task_by_a_bounded_step():
    def derivatives(outputs):
        return -outputs, -tf.ones_like(outputs), tf.zeros_like(outputs)

    moved = _solve_one(derivatives, precision=1e-6)
    assert moved == pytest.approx(1 / (1e-4 + 1e-6), rel=1e-6)


def test_the_first_step_starts_at_the_prior_mean_or_at_the_given_start(solve):
    _, base, label, weight, precision = _world()
    inputs = np.ones((TASKS, SAMPLES, WIDTH))
    point = np.random.default_rng(4).normal(size=(TASKS, WIDTH))
    z = base + point.sum(-1)[:, None]
    loss = np.logaddexp(0, z) - label * z
    expected = (weight * loss).sum(1) / np.maximum(weight.sum(1), 1e-9)
    world = (inputs, base, label, weight, precision)
    at_mean = solve(world, 1, prior_mean=tf.constant(point)).losses[0]
    np.testing.assert_allclose(at_mean, expected, rtol=1e-9)
    elsewhere = solve(world, 1, prior_mean=tf.constant(-point), start=tf.constant(point)).losses[0]
    np.testing.assert_allclose(elsewhere, expected, rtol=1e-9)
