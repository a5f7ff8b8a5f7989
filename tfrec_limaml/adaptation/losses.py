"""Per-task losses: ``sum(w * loss) / sum(w)`` over a task's samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

#: Maps labels ``[N]`` and outputs ``[N]`` (logits for binary cross-entropy) to one loss per sample
#: ``[N]``.
SampleLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def sample_loss(loss: Any) -> SampleLoss:
    """The per-sample form of a Keras loss.

    Args:
        loss: ``"binary_crossentropy"`` (of logits), ``"mean_squared_error"``, any other Keras loss
            by name, a `keras.losses.Loss` or a function ``(y_true, y_pred) -> loss`` per sample.
            Losses given as objects or functions see the raw outputs.

    Returns:
        A function of labels ``[N]`` and outputs ``[N]`` that gives losses ``[N]``.

    Raises:
        ValueError: Not a loss that Keras knows.
    """
    if loss in ("binary_crossentropy", "bce"):
        return lambda y, z: tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z)
    if loss in ("mean_squared_error", "mse"):
        return lambda y, z: tf.math.squared_difference(y, z)
    found = keras.losses.get(loss)
    if found is None:
        raise ValueError("loss must name a Keras loss, received None")
    if isinstance(found, keras.losses.Loss):
        return lambda y, z: found.call(y[:, None], z[:, None])
    return lambda y, z: found(y[:, None], z[:, None])


def is_binary(loss: Any) -> bool:
    """Whether outputs are logits of a binary label."""
    return loss in ("binary_crossentropy", "bce") or isinstance(
        loss, keras.losses.BinaryCrossentropy
    )


def per_task_mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted means ``[T]`` of ``[T, S]``; 0 for a task whose weights are all 0."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights, -1), tf.reduce_sum(weights, -1))
