"""Vanilla: the same network, trained on batches of tasks without an inner loop."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.choices import Averaging
from tfrec_limaml.features import Features
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.entire_network import adapt_network
from tfrec_limaml.models.outer_step import OuterLoss, Samples
from tfrec_limaml.models.task_model import TaskModel


@keras.saving.register_keras_serializable("tfrec_limaml")
class Vanilla(TaskModel):
    """Trains on support and query samples alike, with no inner loop.

    Examples:
        >>> model = Vanilla(MLPMetaBlock(), MLPGlobalBlock())

    Args:
        meta_block: Maps meta features to the meta embedding.
        global_block: Maps the features and the meta embedding to a logit.
        averaging: See `TwoBlockModel`; by default all samples have the same weight.
        fine_tune: Whether `evaluate` and `predict` first adapt the whole network, without the
            embedding tables, by first-order steps.
        **kwargs: See `TwoBlockModel`.
    """

    def __init__(
        self,
        meta_block: Any,
        global_block: Any,
        *,
        averaging: Averaging = "sample",
        fine_tune: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            meta_block, global_block, averaging=averaging, fine_tune=fine_tune, **kwargs
        )

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """The loss of all samples of a task."""
        samples = tf.nest.map_structure(
            lambda s, q: tf.concat([s, q], 1), _model_inputs(support), _model_inputs(query)
        )
        rows = self.real_rows(samples["features"], samples["weight"])
        outputs = rows.spread(self.network(rows.take_features(samples["features"]), training=True))
        return OuterLoss(self.task_loss(outputs, samples), self.outer_weights(support, query))

    def outer_weights(self, support: Samples, query: Samples) -> tf.Tensor:
        """The weights of all samples."""
        return self.mean_weights(tf.concat([support["weight"], query["weight"]], 1))

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts the whole network to each task, by first-order steps."""
        if not steps or not self.adaptation_strength:
            return AdaptedTasks([])
        rate = self.inner_learning_rate * self.strength(training)
        return adapt_network(self, support, steps, rate, 0)

    def adapted_outputs(
        self,
        adapted: AdaptedTasks,
        features: Features,
        training: bool = False,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Outputs ``[T, S]`` of the tasks' networks, or the shared one if nothing was adapted."""
        if adapted.weights:
            return self.network.call_adapted(adapted.weights, features, training)
        rows = self.real_rows(features, weight)
        return rows.spread(self.network(rows.take_features(features), training=training))


def _model_inputs(samples: Samples) -> dict[str, Any]:
    return {
        "features": dict(samples["features"]),
        "label": samples["label"],
        "weight": samples["weight"],
    }
