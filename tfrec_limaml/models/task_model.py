"""Base class of the models: training, evaluation and prediction on batches of tasks.

A batch of tasks is a dictionary (made by `tfrec_limaml.task_dataset`)::

    {"support": {"features": {name: [T, S, ...]}, "label": [T, S], "weight": [T, S]},
     "query":   {"features": {name: [T, Q, ...]}, "label": [T, Q], "weight": [T, Q]}}

Padding rows have weight 0 and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.features import Features
from tfrec_limaml.keras_internals import loss_tracker
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.finite_tasks import (
    finite_adaptation,
    finite_samples,
    refuse_bad_samples,
)
from tfrec_limaml.models.outer_step import (
    OuterLoss,
    Samples,
    Step,
    sum_over_replicas,
    traced_once,
    without_tasks,
    zero_unless_finite,
)
from tfrec_limaml.models.query_rows import describe_query
from tfrec_limaml.models.task_batches import check_task_batch, is_task_batch
from tfrec_limaml.models.two_block_model import TwoBlockModel

TaskBatch = Mapping[str, Any]


class TaskModel(TwoBlockModel):
    """Base class of `LiMAML`, `EntireNetworkMAML` and `Vanilla`: steps over batches of tasks.

    Args:
        **kwargs: See `TwoBlockModel`.
    """

    # -- defined by each algorithm

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """The per-task parts of the training objective."""
        raise NotImplementedError

    def outer_weights(self, support: Samples, query: Samples) -> tf.Tensor:
        """Each task's weight ``[T]`` in the outer mean, 0 for tasks that are ignored."""
        raise NotImplementedError

    def outer_count(self, support: Samples, query: Samples) -> tf.Tensor:
        """Sum of the tasks' weights."""
        return tf.reduce_sum(self.outer_weights(support, query))

    def mean_weights(self, sample_weights: tf.Tensor) -> tf.Tensor:
        """Each task's weight ``[T]`` in a mean over tasks or samples; see `averaging`.

        `sample_weights` is ``[T, S]``.
        """
        counts = tf.reduce_sum(sample_weights, -1)
        return counts if self.averaging == "sample" else tf.cast(counts > 0, counts.dtype)

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts on the support sets in `steps` steps.

        With 0 steps the support sets affect only blocks that read them. None leaves the tasks
        un-adapted.
        """
        raise NotImplementedError

    def adapted_outputs(
        self,
        adapted: AdaptedTasks,
        features: Features,
        training: bool = False,
        weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Outputs (logits) ``[T, S]`` of adapted tasks.

        Args:
            adapted: The result of `adapt_tasks`.
            features: Encoded features ``[T, S, ...]``.
            training: Passed on to the layers.
            weight: Sample weights ``[T, S]``: the outputs of rows of weight 0 are undefined, and
                need not be computed. None computes all rows.
        """
        raise NotImplementedError

    # -- Keras steps

    def train_step(self, data: TaskBatch) -> dict[str, tf.Tensor]:
        """One outer step on a batch of tasks.

        A task whose loss, features, support losses or adapted weights are not finite is left out,
        and counted in `dropped_tasks`. If the gradients of a step are not finite, zeros take their
        place, and the step is counted in `skipped_steps`.

        A negative weight, and a label outside 0 to 1 under a loss of binary labels, are errors
        here and in `test_step`. With ``jit_compile=True`` there is no error, since XLA leaves
        assertions out: such tasks are left out of training, and evaluated as they are.
        """
        data = step_data(data)
        step = sum_over_replicas(self._step(data["support"], data["query"]))
        self.dropped_tasks.assign_add(step.dropped)
        self.skipped_steps.assign_add(tf.minimum(step.skipped, 1))
        self.optimizer.apply(step.gradients, self.trainable_variables)
        # A batch without tasks, with which workers fill an epoch, has no loss.
        loss_tracker(self).update_state(step.loss, tf.cast(step.count > 0, step.loss.dtype))
        return {"loss": loss_tracker(self).result()}

    def test_step(self, data: TaskBatch) -> dict[str, tf.Tensor]:
        """Evaluates query predictions, after fine-tuning on the support set if `fine_tune` is on.

        Returns:
            The loss and the metrics by name.
        """
        data = step_data(data)
        support, query = data["support"], data["query"]
        self._refuse_bad_samples(support, query)
        outputs = self.task_outputs(support, query)
        mask = query["weight"] > 0
        label, outputs = tf.boolean_mask(query["label"], mask), tf.boolean_mask(outputs, mask)
        losses = self._task_loss(label, tf.cast(outputs, label.dtype))
        weight = tf.boolean_mask(query["weight"], mask)
        loss = tf.math.divide_no_nan(tf.reduce_sum(weight * losses), tf.reduce_sum(weight))
        loss_tracker(self).update_state(self._with_penalties(loss), tf.reduce_sum(weight))
        result: dict[str, tf.Tensor] = self.compute_metrics(
            None, label[:, None], self.predictions(outputs)[:, None], weight
        )
        metric = self.unadapted_auc()
        if metric is not None:
            unadapted = self.outputs_of(self.adapt_tasks(support, None), query)
            # Like the other metrics, it ignores sample weights.
            metric.update_state(
                label[:, None], self.predictions(tf.boolean_mask(unadapted, mask))[:, None]
            )
            result[metric.name] = metric.result()
        return result

    def predict_step(self, data: Any) -> Any:
        """Query predictions of a batch of tasks, or un-adapted predictions of encoded rows.

        Returns:
            For encoded rows, predictions ``[N]``. For tasks, a dictionary of arrays ``[N]``:
            ``probability`` (``prediction`` under a regression loss), ``history`` (samples in the
            task's support set), and all other entries of the query: ``label``, and with
            ``task_dataset(..., with_keys=True)`` also ``timestamp``, ``task_key``, ``last_seen``
            (the latest timestamp of the task's support set; 0 if the set is empty) and passthrough
            columns (the schema's `carry`).
        """
        data = step_data(data)
        if not is_task_batch(data):
            return self(data, training=False)
        return self.query_rows(data, self.task_outputs(data["support"], data["query"]))

    def query_rows(self, data: TaskBatch, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """The result of `predict_step` for tasks, from their query outputs ``[T, Q]``."""
        name = "probability" if self.binary else "prediction"
        return {
            name: _at_least_float32(
                self.predictions(tf.boolean_mask(outputs, data["query"]["weight"] > 0))
            ),
            **describe_query(data),
        }

    def task_outputs(self, support: Samples, query: Samples) -> tf.Tensor:
        """Query outputs ``[T, Q]``, fine-tuned if `fine_tune` is on."""
        steps = self.fine_tune_steps if self.fine_tune else None
        return self.outputs_of(self.adapt_tasks(support, steps), query)

    def outputs_of(
        self, adapted: AdaptedTasks, samples: Samples, training: bool = False
    ) -> tf.Tensor:
        """`adapted_outputs` of the samples' real rows."""
        return self.adapted_outputs(adapted, samples["features"], training, samples["weight"])

    def _step(self, support: Samples, query: Samples) -> Step:
        """Computes the step of this replica's tasks."""
        count = self.outer_count(support, query)
        single_replica = self.distribute_strategy.num_replicas_in_sync == 1
        gradients_of = traced_once(self._gradients) if single_replica else self._gradients
        loss, gradients, finite = gradients_of(support, query, count)

        def without_bad_tasks() -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
            self._refuse_bad_samples(support, query)
            remaining = without_tasks(support, ~finite), without_tasks(query, ~finite)
            count = self.outer_count(*remaining)
            loss, gradients, _ = gradients_of(*remaining, count)
            return loss, gradients, count

        # `finite` depends only on what is known before the gradients: the CPU can choose the branch
        # while a GPU still computes the gradients.
        loss, gradients, count = tf.cond(
            tf.reduce_all(finite), lambda: (loss, gradients, count), without_bad_tasks
        )
        skipped = tf.constant(0, tf.int64)
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # A LossScaleOptimizer must see values that are not finite, to lower its scale.
            gradients, skipped = zero_unless_finite(loss, gradients)
        return Step(loss, gradients, count, tf.math.count_nonzero(~finite), skipped)

    def _gradients(
        self, support: Samples, query: Samples, count: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """The loss, its gradients, and a mask ``[T]`` of the tasks whose values are finite."""
        variables = [v.value for v in self.trainable_variables]
        with tf.GradientTape() as tape:
            outer = self.outer_loss(support, query)
            total = outer.losses if outer.auxiliary is None else outer.losses + outer.auxiliary
            loss = tf.math.divide_no_nan(tf.reduce_sum(total * outer.weights), count)
            loss = self._with_penalties(loss)
            scaled_loss = self.optimizer.scale_loss(loss)
        finite = tf.math.is_finite(total)
        for samples in (support, query):
            finite &= finite_samples(samples, self.binary)
        if outer.adapted is not None:
            nested = bool(self.meta_block.nested_definitions)
            finite &= finite_adaptation(outer.adapted, weights=not nested)
        gradients = tape.gradient(
            scaled_loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, [tf.convert_to_tensor(g) for g in gradients], finite

    def _refuse_bad_samples(self, support: Samples, query: Samples) -> None:
        for part, samples in (("support", support), ("query", query)):
            refuse_bad_samples(part, samples, self.binary)

    def _with_penalties(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss plus those of regularizers and layers."""
        if not self.losses:
            return loss
        return loss + tf.add_n([tf.cast(extra, loss.dtype) for extra in self.losses])


def _at_least_float32(values: tf.Tensor) -> tf.Tensor:
    """Half precision as float32, because NumPy has no bfloat16."""
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def step_data(data: Any) -> Any:
    """The batch of tasks or the encoded rows in the argument of a Keras step.

    Labels and weights of tasks become floats.
    """
    data = data[0] if isinstance(data, tuple) else data
    if not is_task_batch(data):
        return data
    check_task_batch(data)
    return {**data, **{part: _with_floats(data[part]) for part in ("support", "query")}}


def _with_floats(samples: Samples) -> dict[str, Any]:
    """The samples with label and weight as float32, or float64 if the label is float64."""
    label = tf.convert_to_tensor(samples["label"])
    dtype = tf.float64 if label.dtype == tf.float64 else tf.float32
    weight = tf.convert_to_tensor(samples["weight"])
    return {**samples, "label": tf.cast(label, dtype), "weight": tf.cast(weight, dtype)}
