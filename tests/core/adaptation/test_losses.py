"""Every Keras loss is fed what it expects, or refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.adaptation.losses import is_binary, loss_derivatives, sample_loss

pytestmark = pytest.mark.usefixtures("optimised_graphs")

LABEL, LOGIT = np.array([0.0, 1.0, 1.0, 0.0]), np.array([3.0, -4.0, 0.5, -0.1])
PROBABILITY = 1 / (1 + np.exp(-LOGIT))
CROSS_ENTROPY = -(LABEL * np.log(PROBABILITY) + (1 - LABEL) * np.log(1 - PROBABILITY))
RIGHT = LABEL * PROBABILITY + (1 - LABEL) * (1 - PROBABILITY)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("binary_crossentropy", CROSS_ENTROPY),
        ("BinaryCrossentropy", CROSS_ENTROPY),
        (keras.losses.BinaryCrossentropy(), CROSS_ENTROPY),
        (keras.losses.BinaryCrossentropy(from_logits=True), CROSS_ENTROPY),
        ("binary_focal_crossentropy", (1 - RIGHT) ** 2 * CROSS_ENTROPY),
        (keras.losses.BinaryFocalCrossentropy(gamma=1.0), (1 - RIGHT) * CROSS_ENTROPY),
    ],
    ids=["name", "class name", "object", "object of logits", "focal name", "focal object"],
)
def test_a_binary_loss_reads_logits_whatever_it_is_given_as(loss, expected):
    assert is_binary(loss)
    actual = sample_loss(loss)(tf.constant(LABEL), tf.constant(LOGIT))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", (LABEL - LOGIT) ** 2),
        (keras.losses.MeanSquaredError(), (LABEL - LOGIT) ** 2),
        ("mean_absolute_error", np.abs(LABEL - LOGIT)),
        (lambda y, z: tf.reduce_sum(tf.abs(y - z), -1), np.abs(LABEL - LOGIT)),
        (lambda y, z: tf.abs(y - z), np.abs(LABEL - LOGIT)),
    ],
    ids=["mse", "object", "name", "own function", "own function of columns"],
)
def test_a_regression_loss_reads_raw_outputs(loss, expected):
    assert not is_binary(loss)
    actual = sample_loss(loss)(tf.constant(LABEL), tf.constant(LOGIT))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    ["hinge", "poisson", "kl_divergence", keras.losses.CategoricalCrossentropy()],
    ids=["hinge", "poisson", "divergence", "object"],
)
def test_a_loss_that_does_not_fit_one_output_is_refused(loss):
    with pytest.raises(ValueError, match="does not fit one output per sample; use 'binary_cross"):
        sample_loss(loss)


def test_a_loss_of_one_s_own_that_returns_one_value_for_all_rows_is_refused():
    loss = sample_loss(lambda y, z: tf.reduce_mean(tf.square(y - z)))
    with pytest.raises(ValueError, match=r"one value per row.*tf\.reduce_mean\(losses, -1\)"):
        loss(tf.constant(LABEL), tf.constant(LOGIT))
    pairs = sample_loss(lambda y, z: tf.concat([y, z], -1))
    with pytest.raises(ValueError, match=r"received the shape \(4, 2\)"):
        pairs(tf.constant(LABEL), tf.constant(LOGIT))


@pytest.mark.parametrize("loss", ["binary_crossentropy", "binary_focal_crossentropy", "mse"])
def test_derivatives_are_those_of_finite_differences(loss):
    derivatives, step = loss_derivatives(loss), 1e-4
    label, output = tf.constant(LABEL[:, None]), tf.constant(LOGIT[:, None])
    value, slope, curvature = derivatives(label, output)
    up, down = (derivatives(label, output + sign * step) for sign in (1, -1))
    np.testing.assert_allclose(slope, (up[0] - down[0]) / (2 * step), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(curvature, (up[1] - down[1]) / (2 * step), rtol=1e-5, atol=1e-7)
    assert value.shape == (4, 1)
