"""The inner loop: a few steps of gradient descent on each task's weights, all tasks at once.

The gradient of the sum of the tasks' losses with respect to per-task weights *is* each task's
gradient, so one `tf.GradientTape` is enough for a batch of tasks. Sources: Finn et al.,
"Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017; Wang et al.,
"LiMAML: Personalization of Deep Recommender Models via Meta Learning", KDD 2024, Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import FORMS, DualKernel, LowRankKernel, SharedWeight
from tfrec_limaml.errors import LimamlError

#: Tensors ``[T, ...]``, or the cheaper forms of `tfrec_limaml.adaptation.inner_weights`.
Weights = list[Any]


class Adapted(NamedTuple):
    """Result of `adapt`.

    Attributes:
        weights: Adapted weights, in the order and the forms of those that `adapt` received.
        losses: Support losses ``[T]`` before each step; empty without steps.
    """

    weights: Weights
    losses: list[tf.Tensor]


def adapt(
    weights: Weights,
    task_losses: Callable[[Weights], tf.Tensor],
    steps: int,
    learning_rates: float | Sequence[tf.Tensor | float],
    second_order_steps: int | None = None,
    step_scale: tf.Tensor | None = None,
) -> Adapted:
    """Takes `steps` steps of gradient descent from `weights`.

    Args:
        weights: Each task's starting weights, ``[T, ...]`` or in a form of
            `tfrec_limaml.adaptation.inner_weights`.
        task_losses: Maps weights in these forms to the tasks' support losses ``[T]``.
        steps: Number of steps; 0 returns the weights unchanged.
        learning_rates: One inner learning rate for all weights, or a sequence with one rate for
            each weight: a number, or a tensor that broadcasts against the weight.
        second_order_steps: Number of the *last* steps whose second derivatives an outer tape
            computes. ``None`` means all steps (MAML). 0 means no step: inner gradients are
            constants (first-order MAML).
        step_scale: Factor of each task's gradients, ``[T]``; None for 1.

    Returns:
        The adapted weights and the losses before each step.

    Raises:
        LimamlError: `steps` is at least 1, but there are no weights.
    """
    _check_weights(weights, steps)
    rates = (
        list(learning_rates)
        if isinstance(learning_rates, Sequence)
        else [learning_rates] * len(weights)
    )
    weights = [
        w.without_dual() if isinstance(w, DualKernel | LowRankKernel) and _per_parameter(r) else w
        for w, r in zip(weights, rates, strict=True)
    ]
    losses: list[tf.Tensor] = []
    for step in range(steps):
        exact = second_order_steps is None or step >= steps - second_order_steps
        sources = [w.zero_placeholder if isinstance(w, FORMS) else w for w in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            loss = task_losses(weights)
            total = tf.reduce_sum(loss)
        losses.append(loss)
        gradients = tape.gradient(
            total, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        if not exact:
            gradients = [tf.stop_gradient(g) for g in gradients]
        if step_scale is not None:
            gradients = [_scale(g, step_scale) for g in gradients]
        weights = [
            _descend(w, g, rate, exact)
            for w, g, rate in zip(weights, gradients, rates, strict=True)
        ]
    return Adapted(weights, losses)


def _check_weights(weights: Weights, steps: int) -> None:
    if steps and not weights:
        raise LimamlError(
            "nothing can be adapted: all variables that the inner loop adapts are frozen; set "
            "trainable=True for some of them, or take no steps (inner_steps=0, fine_tune_steps=0)"
        )


def _per_parameter(rate: Any) -> bool:
    return tf.is_tensor(rate) and rate.shape.rank != 0


def _scale(gradient: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    shape = tf.concat([tf.shape(scale), tf.ones([tf.rank(gradient) - 1], tf.int32)], 0)
    return gradient * tf.cast(tf.reshape(scale, shape), gradient.dtype)


def _descend(weight: Any, gradient: tf.Tensor, rate: Any, exact: bool) -> Any:
    if isinstance(weight, DualKernel | LowRankKernel):
        return weight.descend(gradient, rate, exact)
    if isinstance(weight, SharedWeight):
        return weight.descend(gradient, rate)
    return weight - tf.cast(gradient, weight.dtype) * rate
