"""Dual and shared forms of the inner loop's weights against a plain tensor per task."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.adaptation.inner_loop import adapt
from tfrec_limaml.adaptation.inner_weights import (
    DualKernel,
    SharedWeight,
    shared_bias,
    with_task_axis,
)
from tfrec_limaml.blocks import mlp

pytestmark = pytest.mark.usefixtures("optimised_graphs")

TASKS, ROWS, WIDE, OUT = 3, 4, 6, 2


def _draw(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def _loss(kernel, bias, rows, target):
    """One tanh layer on plain tensors or on either form."""
    hidden = (
        kernel.product(rows)
        if isinstance(kernel, DualKernel)
        else tf.matmul(rows, with_task_axis(kernel))
    )
    hidden = shared_bias(hidden, bias) if isinstance(bias, SharedWeight) else hidden + bias[:, None]
    return tf.reduce_mean(tf.square(tf.tanh(hidden) - target), [1, 2])


def _run(dual, steps, second_order_steps):
    rows, target, other = (
        _draw(TASKS, ROWS, WIDE, seed=1),
        _draw(TASKS, ROWS, OUT, seed=2),
        _draw(TASKS, 5, WIDE, seed=3),
    )
    kernel, bias = tf.Variable(_draw(WIDE, OUT, seed=4)), tf.Variable(_draw(OUT, seed=5))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rows)
        if dual:
            inputs = tf.identity(rows)  # what `product` recognises
            start = [
                DualKernel(tf.convert_to_tensor(kernel), inputs),
                SharedWeight(tf.convert_to_tensor(bias), tf.constant(TASKS)),
            ]
        else:
            inputs = rows
            start = [tf.repeat(kernel[None], TASKS, 0), tf.repeat(bias[None], TASKS, 0)]
        weights, losses = adapt(
            start, lambda w: _loss(*w, inputs, target), steps, 0.3, second_order_steps
        )
        outputs = (
            weights[0].product(other)
            if isinstance(weights[0], DualKernel)
            else tf.matmul(other, weights[0])
        )
        outer = (
            tf.reduce_sum(tf.sin(outputs))
            + tf.reduce_sum(_loss(*weights, inputs, target))
            + tf.reduce_sum(with_task_axis(weights[1]) ** 2)
        )
    gradients = [tape.gradient(outer, v) for v in (kernel, bias, rows)]
    return [with_task_axis(w) for w in weights], losses, outputs, gradients


@pytest.mark.parametrize("second_order_steps", [None, 0, 1])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_cheap_forms_adapt_and_differentiate_like_a_tensor_per_task(steps, second_order_steps):
    cheap, plain = (_run(dual, steps, second_order_steps) for dual in (True, False))
    for one, other in zip(tf.nest.flatten(cheap), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    if steps:
        assert np.abs(plain[0][0][0] - plain[0][0][1]).max() > 1e-3, (
            "tasks must differ for this test to mean anything"
        )


def test_a_dual_kernel_is_the_shared_one_minus_rows_times_deltas():
    value, rows, delta = (
        _draw(WIDE, OUT),
        _draw(TASKS, ROWS, WIDE, seed=1),
        _draw(TASKS, ROWS, OUT, seed=2),
    )
    start = DualKernel(value, rows)
    later = start.descend(delta, 0.5).descend(delta, 0.25)
    expected = value - 0.75 * np.einsum("tsi,tso->tio", rows, delta)
    np.testing.assert_allclose(later.per_task(), expected, rtol=1e-12)
    np.testing.assert_allclose(later.product(rows), rows @ expected, rtol=1e-10)
    np.testing.assert_array_equal(start.per_task(), np.repeat(value[None], TASKS, 0))


def _gradients(width_of_duals, monkeypatch, **kwargs):
    monkeypatch.setattr(mlp, "DUAL_FROM_WIDTH", width_of_duals)
    keras.utils.set_random_seed(2)
    blocks = (
        MLPMetaBlock((5, 4), 3, activation="tanh", dtype="float64"),
        MLPGlobalBlock((6,), activation="tanh", dtype="float64"),
    )
    model = LiMAML(*blocks, inner_learning_rate=0.5, inner_steps=3, dtype="float64", **kwargs)
    model.compile("sgd")
    model.build({"meta": (None, WIDE), "other": (None, 2)})

    def samples(size, seed):
        weight = tf.cast(_draw(TASKS, size, seed=seed + 2) > -0.5, tf.float64)
        features = {
            "meta": _draw(TASKS, size, WIDE, seed=seed),
            "other": _draw(TASKS, size, 2, seed=seed + 1),
        }
        return {
            "features": features,
            "label": tf.cast(_draw(TASKS, size, seed=seed + 3) > 0, tf.float64),
            "weight": weight,
        }

    support, query = samples(ROWS, 10), samples(3, 20)
    weights, losses, *_ = model.adapt_tasks(support, 3)
    loss, gradients, _ = model._gradients(support, query, model.outer_count(support, query))
    return weights, [[with_task_axis(w) for w in weights], losses, loss, gradients]


@pytest.mark.parametrize("order", [{}, {"first_order": True}, {"second_order_steps": 1}])
def test_a_model_trains_alike_with_and_without_a_dual_kernel(monkeypatch, order):
    dual, with_dual = _gradients(1, monkeypatch, **order)
    plain, without = _gradients(1000, monkeypatch, **order)
    assert isinstance(dual[0], DualKernel)
    assert tf.is_tensor(plain[0])
    for one, other in zip(tf.nest.flatten(with_dual), tf.nest.flatten(without), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_rates_per_parameter_leave_the_dual_form_and_give_the_same_numbers(monkeypatch):
    learned, with_rates = _gradients(1, monkeypatch, learn_inner_rates=True)
    _, fixed = _gradients(1, monkeypatch)
    assert tf.is_tensor(learned[0])
    for one, other in zip(tf.nest.flatten(with_rates[:3]), tf.nest.flatten(fixed[:3]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
