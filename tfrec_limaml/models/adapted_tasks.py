"""The result of adapting a batch of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.inner_loop import Weights


class AdaptedTasks(NamedTuple):
    """A batch of tasks after adaptation.

    Attributes:
        weights: The adapted weights: one ``[T, ...]`` tensor per variable, or a form of
            `tfrec_limaml.adaptation.inner_weights`. Some models leave them empty if nothing was
            adapted.
        losses: The un-adapted mean support losses ``[T]``, then those before each further step;
            empty if nothing was adapted.
        memory: The meta block's memory of the support sets; see `MetaBlock.encode_support`.
        variance: Posterior variances ``[T, D]`` of the adapted offsets: the diagonal of the inverse
            of the last step's matrix. None in training, without Gauss-Newton steps, and for nested
            task definitions.
    """

    weights: Weights
    losses: Sequence[tf.Tensor] = ()
    memory: Sequence[Any] = ()
    variance: tf.Tensor | None = None
