"""The whole network as the adapted part."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_loop import Weights, adapt
from tfrec_limaml.adaptation.inner_weights import LowRankKernel
from tfrec_limaml.features import Features
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.outer_step import Samples
from tfrec_limaml.models.task_model import TaskModel


@keras.saving.register_keras_serializable("tfrec_limaml")
class EntireNetworkMAML(MAMLModel):
    """MAML on the whole network, the paper's Algorithm 1.

    All weights except the embedding tables are adapted per task. Each task then has its own copy of
    the network, which is too large to be stored for serving: the model is a baseline. Source: Finn
    et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017.

    Examples:
        >>> model = EntireNetworkMAML(MLPMetaBlock(), MLPGlobalBlock(), inner_steps=1)

    Args:
        **kwargs: See `MAMLModel`.
    """

    @property
    def inner_variables(self) -> list[keras.Variable]:
        """All weights of the network except the embedding tables."""
        return self.network.adaptable_variables

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts the whole network to each task."""
        rates, scale = self.inner_rates(training), self.step_scale(support)
        return adapt_network(
            self, support, steps or 0, rates, self.second_order_steps, training, scale
        )

    def adapted_outputs(
        self,
        adapted: AdaptedTasks,
        features: Features,
        training: bool = False,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Outputs ``[T, S]`` of each task's network."""
        return self.network.call_adapted(adapted.weights, features, training)


def adapt_network(
    model: TaskModel,
    support: Samples,
    steps: int,
    rates: Any,
    second_order_steps: int | None,
    training: bool = False,
    step_scale: tf.Tensor | None = None,
) -> AdaptedTasks:
    """Adapts the whole network of `model` to each task; see `adapt` for the arguments."""
    start = model.network.initial_weights(support["label"])

    def losses(weights: Weights) -> tf.Tensor:
        return model.task_loss(
            model.network.call_adapted(weights, support["features"], training), support
        )

    weights, before = adapt(start, losses, steps, rates, second_order_steps, step_scale)
    adapted_weights = [
        w.without_placeholder() if isinstance(w, LowRankKernel) else w for w in weights
    ]
    return AdaptedTasks(adapted_weights, before)
