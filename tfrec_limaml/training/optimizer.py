"""The optimizer of `train`."""

from __future__ import annotations

from typing import Any

import keras

from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.schedules import warmup_cosine

#: Patterns of the names of variables without weight decay. A column may have any name, and its
#: embedding is named after it.
NOT_DECAYED = (r"^bias$", r"^scaled_log_", r"^inner_rate_\d+$")


def make_optimizer(options: TrainOptions, steps: int) -> keras.optimizers.Optimizer:
    """AdamW over `steps` batches, with the options' schedule, decay and averaging."""
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
