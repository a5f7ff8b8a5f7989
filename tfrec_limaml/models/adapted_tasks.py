"""The result of adapting a batch of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.inner_loop import Weights


class AdaptedTasks(NamedTuple):
    """A batch of tasks after adaptation.

    Attributes:
        weights: Each task's weights, one ``[T, ...]`` tensor (or cheaper form) each; empty if
            nothing was adapted.
        losses: Mean support losses ``[T]``: un-adapted, then before each further step; empty if
            nothing was adapted.
        memory: The meta block's memory of the support sets; see `MetaBlock.encode_support`.
        variance: Posterior variances ``[T, D]`` of the adapted offsets, the diagonal of the inverse
            of the last solve's matrix; None in training, and without solves.
    """

    weights: Weights
    losses: Sequence[tf.Tensor] = ()
    memory: Sequence[Any] = ()
    variance: tf.Tensor | None = None
