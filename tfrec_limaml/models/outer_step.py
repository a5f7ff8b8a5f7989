"""Pieces of an outer step: its objective, its count over replicas, and what to do about tasks that
are not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

Samples = Mapping[str, Any]


class OuterLoss(NamedTuple):
    """Per-task pieces of the outer objective: ``sum(weights * losses) / sum(weights)``.

    Attributes:
        losses: ``[T]``.
        weights: ``[T]``, 0 for tasks that do not count.
        auxiliary: ``[T]`` further losses in the same mean, or None.
    """

    losses: tf.Tensor
    weights: tf.Tensor
    auxiliary: tf.Tensor | None = None


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; where a graph is being made, called as often as wanted it is traced once."""
    return function if tf.executing_eagerly() else tf.function(function, autograph=False)


def without_tasks(samples: Samples, bad: tf.Tensor) -> dict[str, Any]:
    """The samples with everything of the tasks marked in `bad` ``[T]``, features included, set to
    0.
    """

    def keep(value: tf.Tensor) -> tf.Tensor:
        mask = tf.reshape(bad, [-1, *[1] * (value.shape.rank - 1)])
        return tf.where(mask, tf.zeros_like(value), value)

    return {
        "features": {name: keep(value) for name, value in samples["features"].items()},
        **{name: keep(value) for name, value in samples.items() if name != "features"},
    }


def sum_over_replicas(count: tf.Tensor) -> tuple[tf.Tensor, int]:
    """The count summed over replicas, and their number."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context is not None else 1
    return (context.all_reduce("SUM", count), replicas) if replicas > 1 else (count, 1)


def clip_over_replicas(
    optimizer: Any, gradients: list[tf.Tensor], replicas: int
) -> list[tf.Tensor]:
    """Gradients whose sum over replicas is clipped as the optimizer clips.

    A Keras optimizer clips the gradients of each replica and then sums them, so that it would clip
    otherwise than on one device. What is returned is small enough for its own clipping to change
    nothing.
    """
    value, norm, overall = (
        getattr(optimizer, name, None) for name in ("clipvalue", "clipnorm", "global_clipnorm")
    )
    if replicas == 1 or not (value or norm or overall):
        return gradients
    total = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
    if overall:
        total = tf.clip_by_global_norm(total, overall)[0]
    elif norm:
        total = [tf.clip_by_norm(g, norm) for g in total]
    elif value:
        total = [tf.clip_by_value(g, -value, value) for g in total]
    return [g / tf.cast(replicas, g.dtype) for g in total]


def all_finite(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Whether every gradient is finite (a scalar)."""
    return tf.math.is_finite(tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients]))


def zero_unless_finite(
    loss: tf.Tensor, gradients: list[tf.Tensor]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Loss and gradients as they are, or zeros if anything in them is not finite."""
    finite = all_finite(gradients) & tf.math.is_finite(loss)
    return tf.where(finite, loss, tf.zeros_like(loss)), [
        tf.where(finite, g, tf.zeros_like(g)) for g in gradients
    ]
