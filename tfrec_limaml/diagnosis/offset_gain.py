"""Measures what LiMAML's closed form gains on a plain network, before LiMAML is trained.

Each task's offset to the meta embedding is solved for on its earlier rows, as LiMAML does, with
the weights of the network as they are. Unlike the effect of one category, an offset can express
tastes across several features and across similar values of one.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrec_limaml.blocks.offset import OffsetMetaBlock
from tfrec_limaml.diagnosis.history_gain import HistoryGain, Rows, best_effect
from tfrec_limaml.diagnosis.random_intercept import logit
from tfrec_limaml.models import LiMAML, TaskModel
from tfrec_limaml.training.strength import rows_by_strength

#: Candidate variances of the offsets' prior; 0 does not adapt. They are LiMAML's adaptation
#: strengths, because its prior precision is 1 here.
VARIANCES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_STEPS = 2


def offset_gain(
    network: TaskModel, tasks: tf.data.Dataset, confidence: float = 0.95
) -> HistoryGain | None:
    """The gain in AUC on query rows from offsets that are solved for on the support sets.

    The prior's variance is the one of `VARIANCES` that predicts the query rows of other tasks best.

    Args:
        network: A trained plain network for binary labels. Its weights stay as they are.
        tasks: Tasks with keys (``task_dataset(..., with_keys=True)``).
        confidence: Confidence level of the interval.

    Returns:
        The gain, or None if the network's meta block is not an `OffsetMetaBlock`.
    """
    if not isinstance(network.meta_block, OffsetMetaBlock):
        return None
    model = LiMAML(
        network.meta_block,
        network.global_block,
        encoder=network.encoder,
        adaptation="gauss-newton",
        fine_tune_steps=_STEPS,
    )
    predictions = rows_by_strength(model, tasks, VARIANCES)
    logits = [logit(each["probability"]) for each in predictions.values()]
    first = predictions[0.0]
    task = np.unique(first["task_key"], return_inverse=True)[1]
    rows = Rows(first["label"], logits[0], task, np.ones(len(task), bool))
    return best_effect(rows, [each - logits[0] for each in logits], confidence)
