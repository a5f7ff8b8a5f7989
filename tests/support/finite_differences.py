"""Compares a model's gradients with finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def assert_outer_gradient(model: Any, support: Any, query: Any) -> list[float]:
    """Compares the gradient of the outer loss along a random direction of each weight.

    Returns:
        The derivative for each trainable variable, from finite differences.
    """

    @tf.function(autograph=False)
    def loss() -> Any:
        return model._gradients(support, query, model.outer_count(support, query))

    _, gradients, _ = loss()
    random = np.random.default_rng(0)
    derivatives = []
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        start, direction = variable.numpy(), random.normal(size=variable.shape)
        ends = []
        for sign in (1, -1):
            variable.assign(start + sign * 1e-6 * direction)
            ends.append(float(loss()[0]))
        variable.assign(start)
        derivatives.append((ends[0] - ends[1]) / 2e-6)
        np.testing.assert_allclose(
            (gradient.numpy() * direction).sum(), derivatives[-1], 1e-5, 1e-7, err_msg=variable.path
        )
    return derivatives
