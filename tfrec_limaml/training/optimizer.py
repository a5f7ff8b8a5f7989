"""The optimizer of `train`, and its learning rate schedule."""

from __future__ import annotations

from typing import Any

import keras

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.training.options import TrainOptions

#: Patterns of the names of variables without weight decay. A column may have any name, and its
#: embedding is named after it.
NOT_DECAYED = (r"^bias$", r"^scaled_log_", r"^inner_rate_\d+$")


def warmup_cosine(
    learning_rate: float, steps: int, warmup_steps: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rises linearly from 0 over `warmup_steps`, then falls to 0 along a cosine until step `steps`.

    Source of the cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", ICLR 2017.

    Args:
        learning_rate: The peak.
        steps: Outer steps of the whole training.
        warmup_steps: Outer steps of the rise, fewer than `steps`.

    Raises:
        LimamlError: `warmup_steps` is out of range.
    """
    if not 0 <= warmup_steps < steps:
        raise LimamlError(
            "warmup_steps must be at least 0 and less than steps, received "
            f"warmup_steps={warmup_steps}, steps={steps}"
        )
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
    )


def make_optimizer(options: TrainOptions, steps: int) -> keras.optimizers.Optimizer:
    """AdamW over `steps` batches, with the options' schedule, weight decay and averaging.

    The gradient's global norm is clipped at 1.
    """
    rate: Any = options.learning_rate
    if options.decay:
        warmup = min(options.warmup_steps, steps // 4)
        rate = warmup_cosine(options.learning_rate, steps, warmup)
    average = options.average_weights
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=options.weight_decay,
        global_clipnorm=1.0,
        use_ema=average > 0,
        ema_momentum=average or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer
