"""What all algorithms share: one ``train_step`` shape over batches of tasks, fine-tuning at
evaluation, Keras conventions.

A batch of tasks is a dictionary (made by `tfrec_limaml.task_dataset`)::

    {"support": {"features": {name: [T, S, ...]}, "label": [T, S], "weight": [T, S]},
     "query":   {"features": {name: [T, Q, ...]}, "label": [T, Q], "weight": [T, Q]}}

Padded samples have weight 0 and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.losses import (
    is_binary,
    loss_derivatives,
    per_task_mean,
    sample_loss,
)
from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.features import Features
from tfrec_limaml.keras_internals import loss_tracker, take_gradients_as_summed
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.network import RecommenderNetwork
from tfrec_limaml.models.outer_step import (
    OuterLoss,
    Samples,
    Step,
    all_finite,
    over_replicas,
    traced_once,
    without_tasks,
    zero_unless_finite,
)
from tfrec_limaml.models.query_rows import describe_query
from tfrec_limaml.models.task_loops import TaskLoops, is_task_batch

TaskBatch = Mapping[str, Any]


class TaskModel(TaskLoops):
    """Base class of `LiMAML`, `EntireNetworkMAML` and `Vanilla`.

    Args:
        meta_block: Maps meta features to the meta embedding.
        global_block: Maps everything else and the meta embedding to a logit.
        encoder: The `FeatureEncoder` that made the features; saved with the model, and needed for
            export.
        fine_tune: Whether `evaluate` and `predict` adapt on each task's support set first.
        fine_tune_steps: Steps ``k`` of that adaptation.
        inner_learning_rate: Inner learning rate, of the inner loop and of fine-tuning.
        averaging: Outer mean over ``"task"`` losses, or over all their ``"sample"`` weights.
        adaptation_strength: How far `evaluate`, `predict` and exported adapters adapt, relative to
            training: a factor of the inner learning rate, or of the prior's variance. 0 means not
            at all. `choose_adaptation_strength` chooses it on validation tasks.
    """

    def __init__(
        self,
        meta_block: MetaBlock,
        global_block: GlobalBlock,
        *,
        encoder: keras.layers.Layer | None = None,
        fine_tune: bool = True,
        fine_tune_steps: int = 1,
        inner_learning_rate: float = 0.1,
        averaging: Literal["task", "sample"] = "task",
        adaptation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _at_least("fine_tune_steps", fine_tune_steps, 0)
        _at_least("adaptation_strength", adaptation_strength, 0.0)
        _at_least("inner_learning_rate", inner_learning_rate, 0.0)
        if averaging not in ("task", "sample"):
            raise ValueError(f"averaging must be 'task' or 'sample', received {averaging!r}")
        self.network = RecommenderNetwork(
            meta_block, global_block, dtype=self.dtype_policy, name="network"
        )
        self.encoder: Any = encoder
        self._fine_tune = bool(fine_tune)
        self._task_spec: Any = None
        self.fine_tune_steps = int(fine_tune_steps)
        self.inner_learning_rate = float(inner_learning_rate)
        self.averaging = averaging
        self._adaptation_strength = float(adaptation_strength)
        self._task_loss = sample_loss("binary_crossentropy")
        self._loss_derivatives = loss_derivatives("binary_crossentropy")
        self.binary = True
        self.dropped_tasks = keras.Variable(
            0,
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name="dropped_tasks",
        )
        if encoder is not None:
            self.build(encoder.output_shapes)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The encoder, where there is one, and the two blocks: what `summary` shows and `get_layer`
        finds.
        """
        return [
            layer
            for layer in (self.encoder, self.meta_block, self.global_block)
            if layer is not None
        ]

    @property
    def meta_block(self) -> MetaBlock:
        """The adapted part."""
        return self.network.meta_block

    @property
    def global_block(self) -> GlobalBlock:
        """The shared part."""
        return self.network.global_block

    @property
    def fine_tune(self) -> bool:
        """Whether `evaluate` and `predict` adapt on the support set first."""
        return self._fine_tune

    @fine_tune.setter
    def fine_tune(self, value: bool) -> None:
        if bool(value) != self._fine_tune:
            self._fine_tune = bool(value)
            self._forget_traces()

    @property
    def adaptation_strength(self) -> float:
        """How far `evaluate`, `predict` and exported adapters adapt, relative to training."""
        return self._adaptation_strength

    @adaptation_strength.setter
    def adaptation_strength(self, value: float) -> None:
        _at_least("adaptation_strength", value, 0.0)
        if float(value) != self._adaptation_strength:
            self._adaptation_strength = float(value)
            self._forget_traces()

    def _forget_traces(self) -> None:
        self.test_function = self.predict_function = None  # traced with the old setting

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds both blocks from the shapes ``[N, ...]`` of the encoded features."""
        self.network.build(dict(features_shape))
        self.built = True

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """Un-adapted predictions ``[N]`` of encoded rows: probabilities, or values under a
        regression loss.
        """
        return self.predictions(self.network(features, training=training))

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "binary_crossentropy",
        metrics: Any = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training like `keras.Model.compile`.

        Args:
            optimizer: Of the outer loop.
            loss: See `tfrec_limaml.losses.sample_loss`.
            metrics: Measured at evaluation, on query predictions; AUC and log loss by default for
                binary labels. Training reports its loss alone: metrics of rows that were just
                trained on cost time and say little.
            jit_compile: Off by default: on CPUs XLA was no faster here. Keras warns and goes on
                without it where the model holds an encoder, whose look-ups XLA cannot compile.
            **kwargs: As in Keras. ``steps_per_execution=8`` makes `fit` faster where steps are
                short; callbacks are then called once every 8 batches.
        """
        self._task_loss = sample_loss(loss)
        self._loss_derivatives = loss_derivatives(loss)
        self.binary = is_binary(loss)
        if metrics is None and self.binary:
            metrics = [
                keras.metrics.AUC(name="auc"),
                keras.metrics.BinaryCrossentropy(name="log_loss"),
            ]
        super().compile(
            optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile, **kwargs
        )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            take_gradients_as_summed(self.optimizer)

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles a loaded model as it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """Outputs to predictions: the sigmoid for binary labels."""
        return tf.sigmoid(outputs) if self.binary else outputs

    # -- what an algorithm defines

    def outer_loss(self, support: Samples, query: Samples) -> OuterLoss:
        """The training objective's per-task pieces."""
        raise NotImplementedError

    def outer_weights(self, support: Samples, query: Samples) -> tf.Tensor:
        """Each task's weight ``[T]`` in the outer mean: 0 for tasks that do not count."""
        raise NotImplementedError

    def outer_count(self, support: Samples, query: Samples) -> tf.Tensor:
        """Sum of the tasks' weights."""
        return tf.reduce_sum(self.outer_weights(support, query))

    def mean_weights(self, sample_weights: tf.Tensor) -> tf.Tensor:
        """Per-task weights ``[T]`` of a mean over tasks or samples, from sample weights ``[T,
        S]``.
        """
        counts = tf.reduce_sum(sample_weights, -1)
        return counts if self.averaging == "sample" else tf.cast(counts > 0, counts.dtype)

    def adapt_tasks(
        self, support: Samples, steps: int | None, training: bool = False
    ) -> AdaptedTasks:
        """Adapts on the support sets, in `steps` steps: none at all with 0, where what reads the
        support set does so still; None leaves the tasks un-adapted.
        """
        raise NotImplementedError

    def adapted_outputs(
        self, adapted: AdaptedTasks, features: Features, training: bool = False
    ) -> tf.Tensor:
        """Outputs (logits) ``[T, S]`` of adapted tasks."""
        raise NotImplementedError

    # -- Keras steps

    def train_step(self, data: TaskBatch) -> dict[str, tf.Tensor]:
        """One outer step on a batch of tasks.

        A task whose loss is not finite is dropped and counted.
        """
        data = _batch(data)
        step = over_replicas(self._step(data["support"], data["query"]))
        self.dropped_tasks.assign_add(step.dropped)
        self.optimizer.apply(step.gradients, self.trainable_variables)
        loss_tracker(self).update_state(step.loss)
        return {"loss": loss_tracker(self).result()}

    def test_step(self, data: TaskBatch) -> dict[str, tf.Tensor]:
        """Measures query predictions, after fine-tuning on the support set where `fine_tune` is
        on.
        """
        data = _batch(data)
        support, query = data["support"], data["query"]
        outputs = self.task_outputs(support, query)
        mask = query["weight"] > 0
        label, outputs = tf.boolean_mask(query["label"], mask), tf.boolean_mask(outputs, mask)
        losses = self._task_loss(label, tf.cast(outputs, label.dtype))
        weight = tf.boolean_mask(query["weight"], mask)
        loss_tracker(self).update_state(
            tf.math.divide_no_nan(tf.reduce_sum(weight * losses), tf.reduce_sum(weight)),
            tf.reduce_sum(weight),
        )
        return self.compute_metrics(
            None, label[:, None], self.predictions(outputs)[:, None], weight
        )

    def predict_step(self, data: Any) -> Any:
        """Query predictions of a batch of tasks, one row each in order; or un-adapted predictions
        of encoded rows.

        For tasks the result is a dictionary of arrays ``[N]``: ``probability`` (``prediction``
        under a regression loss), ``history`` (samples in the task's support set), and whatever else
        the query holds for each row: ``label``, and with ``task_dataset(..., with_keys=True)`` also
        ``timestamp``, ``task_key``, ``last_seen`` (the task's latest support timestamp, 0 without
        any) and passthrough columns (the schema's `carry`).
        """
        data = _batch(data)
        if not is_task_batch(data):
            return self(data, training=False)
        return self.query_rows(data, self.task_outputs(data["support"], data["query"]))

    def query_rows(self, data: TaskBatch, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Query outputs ``[T, Q]`` as predictions of the real rows ``[N]``, with what is known of
        each; see `predict_step`.
        """
        name = "probability" if self.binary else "prediction"
        return {
            name: self.predictions(tf.boolean_mask(outputs, data["query"]["weight"] > 0)),
            **describe_query(data),
        }

    def task_outputs(self, support: Samples, query: Samples) -> tf.Tensor:
        """Query outputs ``[T, Q]``, fine-tuned where `fine_tune` is on."""
        steps = self.fine_tune_steps if self.fine_tune else None
        return self.adapted_outputs(self.adapt_tasks(support, steps), query["features"])

    def task_loss(self, outputs: tf.Tensor, samples: Samples) -> tf.Tensor:
        """Weighted mean loss ``[T]`` of outputs ``[T, S]``."""
        label = samples["label"]
        losses = self._task_loss(
            tf.reshape(label, [-1]), tf.reshape(tf.cast(outputs, label.dtype), [-1])
        )
        return per_task_mean(tf.reshape(losses, tf.shape(label)), samples["weight"])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "meta_block": keras.saving.serialize_keras_object(self.meta_block),
            "global_block": keras.saving.serialize_keras_object(self.global_block),
            "encoder": None
            if self.encoder is None
            else keras.saving.serialize_keras_object(self.encoder),
            "fine_tune": self.fine_tune,
            "fine_tune_steps": self.fine_tune_steps,
            "inner_learning_rate": self.inner_learning_rate,
            "averaging": self.averaging,
            "adaptation_strength": self.adaptation_strength,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TaskModel:
        """Inverse of `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("meta_block", "global_block", "encoder")
        }
        return cls(**{**config, **parts})

    def _step(self, support: Samples, query: Samples) -> Step:
        """The step of this replica's tasks."""
        count = self.outer_count(support, query)
        alone = self.distribute_strategy.num_replicas_in_sync == 1
        gradients_of = traced_once(self._gradients) if alone else self._gradients
        loss, gradients, good = gradients_of(support, query, count)

        def without_bad_tasks() -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
            kept = without_tasks(support, ~good), without_tasks(query, ~good)
            count = self.outer_count(*kept)
            loss, gradients, _ = gradients_of(*kept, count)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                return loss, gradients, count  # it lowers its scale where they are not finite
            return *zero_unless_finite(loss, gradients), count

        loss, gradients, count = tf.cond(
            all_finite(gradients), lambda: (loss, gradients, count), without_bad_tasks
        )
        return Step(loss, gradients, count, tf.math.count_nonzero(~good))

    def _gradients(
        self, support: Samples, query: Samples, count: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """The loss, its gradients, and which tasks ``[T]`` are finite."""
        variables = [v.value for v in self.trainable_variables]
        with tf.GradientTape() as tape:
            outer = self.outer_loss(support, query)
            total = outer.losses if outer.auxiliary is None else outer.losses + outer.auxiliary
            loss = tf.math.divide_no_nan(tf.reduce_sum(total * outer.weights), count)
            if self.losses:
                loss += tf.add_n([tf.cast(extra, loss.dtype) for extra in self.losses])
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, [tf.convert_to_tensor(g) for g in gradients], tf.math.is_finite(total)


def _batch(data: Any) -> Any:
    """What Keras passes to a step: the batch, alone or as the one element of a tuple."""
    return data[0] if isinstance(data, tuple) else data


def _at_least(name: str, value: float, minimum: float) -> None:
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, received {value}")
