"""Parts of an outer step: the objective, the sum over replicas, and losses that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.models.adapted_tasks import AdaptedTasks

Samples = Mapping[str, Any]


class OuterLoss(NamedTuple):
    """Per-task parts of the outer objective: ``sum(weights * losses) / sum(weights)``.

    Attributes:
        losses: Loss of each task ``[T]``.
        weights: Weight of each task ``[T]`` in the mean; 0 for tasks that are ignored.
        auxiliary: Further loss of each task ``[T]``, added to `losses`; None for none.
        adapted: The adapted tasks; None if tasks are not adapted.
    """

    losses: tf.Tensor
    weights: tf.Tensor
    auxiliary: tf.Tensor | None = None
    adapted: AdaptedTasks | None = None


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that several calls in a graph trace it once; no change in eager mode."""
    return function if tf.executing_eagerly() else tf.function(function, autograph=False)


def without_tasks(samples: Samples, bad: tf.Tensor) -> dict[str, Any]:
    """The samples with all values of the tasks marked in `bad` ``[T]`` set to 0."""

    def zero_bad_tasks(value: tf.Tensor) -> tf.Tensor:
        mask = tf.reshape(bad, [-1, *[1] * (value.shape.rank - 1)])
        return tf.where(mask, tf.zeros_like(value), value)

    return {
        "features": {name: zero_bad_tasks(value) for name, value in samples["features"].items()},
        **{name: zero_bad_tasks(value) for name, value in samples.items() if name != "features"},
    }


class Step(NamedTuple):
    """The result of one outer step on a replica, or on all of them.

    Attributes:
        loss: Mean loss of the tasks, a scalar.
        gradients: Gradients of that mean, one for each trainable variable.
        count: Sum of the tasks' weights in the mean.
        dropped: Number of tasks that were left out because their values are not finite.
        skipped: 1 on each replica whose gradients are 0 because they were not finite.
    """

    loss: tf.Tensor
    gradients: list[tf.Tensor]
    count: tf.Tensor
    dropped: tf.Tensor
    skipped: tf.Tensor


def sum_over_replicas(step: Step) -> Step:
    """Sums the steps of all replicas; the result is the same on each of them.

    All values are exchanged in one all-reduce: each further one would cost a round trip between
    the workers.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return step
    dtype = step.gradients[0].dtype
    local_count = tf.cast(step.count, dtype)
    means = [step.loss, *step.gradients]
    parts = [
        *(tf.cast(m, dtype) * local_count for m in means),
        local_count,
        tf.cast(step.dropped, dtype),
        tf.cast(step.skipped, dtype),
    ]
    *sums, count, dropped, skipped = context.all_reduce("SUM", parts)
    loss, *gradients = (
        tf.cast(tf.math.divide_no_nan(total, count), mean.dtype)
        for total, mean in zip(sums, means, strict=True)
    )
    return Step(
        loss,
        gradients,
        tf.cast(count, step.count.dtype),
        tf.cast(dropped, step.dropped.dtype),
        tf.cast(skipped, step.skipped.dtype),
    )


def zero_unless_finite(
    loss: tf.Tensor, gradients: list[tf.Tensor]
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """The gradients and 0; all zeros and 1 if the loss or any of them is not finite."""
    norm = tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients])
    finite = tf.math.is_finite(norm) & tf.math.is_finite(loss)
    zeroed = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
    return zeroed, tf.cast(~finite, tf.int64)
