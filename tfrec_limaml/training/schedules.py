"""Learning rate schedules of the outer loop."""

from __future__ import annotations

import keras

from tfrec_limaml.errors import LimamlError


def scale_learning_rate(learning_rate: float, tasks_per_batch: int, reference: int = 128) -> float:
    """Scales a learning rate linearly with the tasks in a batch.

    Args:
        learning_rate: Learning rate for `reference` tasks per batch.
        tasks_per_batch: Tasks per batch, over all replicas.
        reference: Tasks per batch that `learning_rate` is meant for.
    """
    if tasks_per_batch < 1 or reference < 1:
        raise LimamlError(
            f"tasks_per_batch and reference must be at least 1, received {tasks_per_batch} and "
            f"{reference}"
        )
    return learning_rate * tasks_per_batch / reference


def warmup_cosine(
    learning_rate: float, steps: int, warmup_steps: int = 0, final_share: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly from 0 over `warmup_steps`, then falls along a cosine until step `steps`.

    Args:
        learning_rate: The peak.
        steps: Outer steps of the whole training.
        warmup_steps: Outer steps of the rise, fewer than `steps`.
        final_share: Final learning rate as a share of the peak.

    Raises:
        LimamlError: An argument is out of range.
    """
    if not 0 <= warmup_steps < steps:
        raise LimamlError(
            "warmup_steps must be at least 0 and less than steps, received "
            f"warmup_steps={warmup_steps}, steps={steps}"
        )
    if not 0.0 <= final_share <= 1.0:
        raise LimamlError(f"final_share must lie between 0 and 1, received {final_share}")
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=final_share)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - warmup_steps,
        alpha=final_share,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )
