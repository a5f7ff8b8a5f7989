"""Tells tasks whose values are not finite, even where their query loss is.

On CPUs a ReLU may turn NaN into 0: the loss of a task with NaN is then finite, and its gradients
are not.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import DualKernel, LowRankKernel, SharedWeight
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.outer_step import Samples


def finite_features(samples: Samples) -> tf.Tensor:
    """Whether the features of each task's real rows are finite: ``[T]``, or a scalar."""
    values = map(tf.convert_to_tensor, samples["features"].values())
    rows = [tf.math.is_finite(_sum_from(value, 2)) for value in values if value.dtype.is_floating]
    if not rows:
        return tf.constant(True)
    return tf.reduce_all(tf.reduce_all(tf.stack(rows), 0) | (samples["weight"] == 0), -1)


def finite_adaptation(adapted: AdaptedTasks, weights: bool) -> tf.Tensor:
    """Whether each task's support losses are finite: ``[T]``, or a scalar.

    So must be the adapted weights, if `weights` says that their first axis is that of the tasks.
    """
    values = list(adapted.losses)
    for weight in adapted.weights if weights else ():
        values += _of_tasks(weight)
    finite = [tf.math.is_finite(_sum_from(value, 1)) for value in values]
    return tf.reduce_all(tf.stack(finite), 0) if finite else tf.constant(True)


def _of_tasks(weight: Any) -> list[tf.Tensor]:
    """The tensors ``[T, ...]`` of an adapted weight in any form."""
    if isinstance(weight, SharedWeight):
        return []
    return weight.changes if isinstance(weight, DualKernel | LowRankKernel) else [weight]


def _sum_from(value: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums over this axis and all later ones, in at least single precision."""
    value = tf.cast(value, tf.float32) if value.dtype.size < 4 else value
    return tf.reduce_sum(value, list(range(axis, value.shape.rank)))
