"""Meta-learning's outer objective: the query loss after adaptation."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.choices import SUPPORT_REDUCTIONS, SupportReduction, check_choice
from tfrec_limaml.models.model_attributes import TracedSetting, count, number
from tfrec_limaml.models.outer_step import OuterLoss, Samples
from tfrec_limaml.models.task_model import TaskModel

#: Initial `kappa`: the number of support rows at which a shrunk step is half of the full one.
KAPPA = 5.0
#: The logarithm of `kappa` is learned at this multiple of the outer learning rate.
KAPPA_RATE = 10.0


class MAMLModel(TaskModel):
    """Base of `LiMAML` and `EntireNetworkMAML`.

    Args:
        meta_block: Maps meta features to the meta embedding.
        global_block: Maps the features and the meta embedding to a logit.
        inner_steps: Steps ``n`` of the inner loop in training.
        first_order: Whether to treat inner gradients as constants (first-order MAML).
        second_order_steps: Differentiate twice through only this many of the last inner steps,
            which is cheaper and less exact; ``None`` means all steps.
        unadapted_loss_weight: Weight of the support loss *before* adaptation in the outer
            objective. This loss improves the scores of members without history; the paper's
            objective leaves it out (weight 0).
        learn_inner_rates: Whether to learn one inner learning rate per parameter, initially
            `inner_learning_rate`; the paper has one fixed rate. Source: Li et al., "Meta-SGD:
            Learning to Learn Quickly for Few-Shot Learning", 2017, arXiv 1707.09835.
        support_reduction: The objective of a gradient step, for a task of ``n`` support rows (the
            sum of their weights): ``"mean"``, their mean loss; ``"sum"``, the sum (the paper's
            equation 1), which needs a smaller `inner_learning_rate`; ``"shrunk"``, the mean times
            ``n / (n + kappa)``, so that short histories move a task less. `kappa` is learned,
            initially `KAPPA`.
        fine_tune_steps: Steps ``k`` of the adaptation in `evaluate` and `predict`; None means
            `inner_steps`.
        **kwargs: See `TwoBlockModel`.

    Raises:
        ValueError: Options contradict each other, or are out of range.
    """

    inner_steps = TracedSetting(count)
    second_order_steps = TracedSetting(
        lambda name, steps: None if steps is None else count(name, steps)
    )
    unadapted_loss_weight = TracedSetting(number(0.0))

    def __init__(
        self,
        meta_block: Any,
        global_block: Any,
        *,
        inner_steps: int = 1,
        first_order: bool = False,
        second_order_steps: int | None = None,
        unadapted_loss_weight: float = 0.0,
        learn_inner_rates: bool = False,
        support_reduction: SupportReduction = "mean",
        fine_tune_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        if first_order and second_order_steps:
            raise ValueError(
                "first_order=True means second_order_steps=0, received "
                f"second_order_steps={second_order_steps}; give only one of them"
            )
        _check_reduction(support_reduction, meta_block)
        self.support_reduction = support_reduction
        self.inner_steps = inner_steps
        self.second_order_steps = 0 if first_order else second_order_steps
        self.unadapted_loss_weight = unadapted_loss_weight
        self.learn_inner_rates = bool(learn_inner_rates)
        super().__init__(
            meta_block,
            global_block,
            fine_tune_steps=inner_steps if fine_tune_steps is None else fine_tune_steps,
            **kwargs,
        )

    @property
    def first_order(self) -> bool:
        """Whether inner gradients are constants; the same as ``second_order_steps == 0``."""
        return self.second_order_steps == 0

    @first_order.setter
    def first_order(self, value: bool) -> None:
        self.second_order_steps = 0 if value else None

    @property
    def inner_variables(self) -> list[keras.Variable]:
        """The variables that the inner loop adapts."""
        raise NotImplementedError

    def build(self, features_shape: Any) -> None:
        """Builds the blocks, the learned inner learning rates and `kappa`, if there are any."""
        super().build(features_shape)
        if self.support_reduction == "shrunk":
            self.scaled_log_kappa = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(math.log(KAPPA) / KAPPA_RATE),
                name="scaled_log_kappa",
            )
        if self.learn_inner_rates:
            rate = keras.initializers.Constant(self.inner_learning_rate)
            self.rates = [
                self.add_weight(
                    shape=v.shape, initializer=rate, constraint="non_neg", name=f"inner_rate_{i}"
                )
                for i, v in enumerate(self.inner_variables)
            ]

    def inner_rates(self, training: bool = False) -> Any:
        """The inner learning rate, or one tensor of rates for each adapted variable.

        Outside training it is multiplied by `adaptation_strength`.
        """
        strength = self.strength(training)
        if self.learn_inner_rates:
            return [tf.convert_to_tensor(rate) * strength for rate in self.rates]
        return self.inner_learning_rate * strength

    def step_scale(self, support: Samples) -> tf.Tensor | None:
        """Factors ``[T]`` that scale the steps on the mean support losses; None means 1."""
        if self.support_reduction == "mean":
            return None
        rows = tf.reduce_sum(support["weight"], -1)
        if self.support_reduction == "sum":
            return rows
        kappa = tf.exp(KAPPA_RATE * tf.cast(self.scaled_log_kappa, rows.dtype))
        return rows / (rows + kappa)

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """Query loss at the adapted weights, plus the weighted support loss before adaptation."""
        adapted = self.adapt_tasks(support, self.inner_steps, training=True)
        outputs = self.outputs_of(adapted, query, training=True)
        query_loss = self.task_loss(outputs, query)
        auxiliary = None
        if self.unadapted_loss_weight:
            if adapted.losses:
                before = adapted.losses[0]
            else:
                outputs = self.outputs_of(adapted, support, training=True)
                before = self.task_loss(outputs, support)
            auxiliary = self.unadapted_loss_weight * before
        return OuterLoss(query_loss, self.outer_weights(support, query), auxiliary, adapted)

    def outer_weights(self, support: Samples, query: Samples) -> tf.Tensor:
        """Each task's weight ``[T]`` in the outer mean, 0 for tasks without query samples."""
        return self.mean_weights(query["weight"])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "inner_steps": self.inner_steps,
            "second_order_steps": self.second_order_steps,
            "unadapted_loss_weight": self.unadapted_loss_weight,
            "learn_inner_rates": self.learn_inner_rates,
            "support_reduction": self.support_reduction,
        }


def _check_reduction(reduction: str, meta_block: Any) -> None:
    check_choice("support_reduction", reduction, SUPPORT_REDUCTIONS)
    if reduction != "mean" and meta_block.nested_definitions:
        raise ValueError(
            f"nested task definitions need support_reduction='mean', received {reduction!r}"
        )
