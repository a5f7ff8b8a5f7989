"""The loss of a model and the metrics of its evaluation: compiled, saved and computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.losses import (
    is_binary,
    is_own,
    loss_derivatives,
    per_task_mean,
    sample_loss,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.keras_internals import take_gradients_as_summed
from tfrec_limaml.models.logit_auc import LogitAUC
from tfrec_limaml.models.model_attributes import Untracked
from tfrec_limaml.models.outer_step import Samples
from tfrec_limaml.models.task_loops import TaskLoops


class LossAndMetrics(TaskLoops):
    """A model with one loss for adaptation, training and evaluation.

    Attributes:
        encoder: A `FeatureEncoder`, whose schema has the kind of the label; or None.
        binary: Whether labels are binary, so that outputs are logits and predictions probabilities.
        reports_unadapted_auc: Whether evaluation with fine-tuning also reports ``unadapted_auc``,
            the AUC before adaptation, unless `metrics` are given.
    """

    encoder: Any
    binary: bool
    fine_tune: bool
    reports_unadapted_auc = False
    _unadapted_auc: Untracked[LogitAUC | None] = Untracked(None)

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "binary_crossentropy",
        metrics: Any = None,
        jit_compile: bool = False,
        binary: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training like `keras.Model.compile`.

        Args:
            optimizer: Optimizer of the outer loop.
            loss: See `tfrec_limaml.adaptation.losses.sample_loss`.
            metrics: Measured at evaluation, on query predictions; AUC and log loss by default for
                binary labels, and for LiMAML with fine-tuning also ``unadapted_auc``, the AUC
                before adaptation. Training reports only its loss: metrics on training rows cost
                time and tell little.
            jit_compile: Whether XLA compiles the steps. Off by default, because XLA was no faster
                on CPUs. For a model with an encoder, whose look-ups XLA cannot compile, Keras warns
                and does not use XLA.
            binary: Only for a loss of your own: whether it is a loss of binary labels. It then
                takes logits, and predictions and metrics are about probabilities. None means that
                it is one if the encoder's schema has a binary label.
            **kwargs: As in Keras. ``steps_per_execution=8`` makes `fit` faster if steps are short;
                callbacks are then called once every 8 batches.

        Raises:
            ValueError: `loss` does not fit one output per sample or the kind of the label, or
                `loss_weights` are given.
            LimamlError: `binary` contradicts a Keras loss.
        """
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "loss_weights weigh the losses of several outputs, and the model has one; leave "
                f"them out, received {kwargs['loss_weights']!r}"
            )
        self._set_loss(loss, self._checked_binary(loss, binary))
        self._default_metrics = metrics is None
        if metrics is None and self.binary:
            metrics = [
                LogitAUC(name="auc"),
                keras.metrics.BinaryCrossentropy(name="log_loss"),
            ]
        super().compile(
            optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile, **kwargs
        )
        reported = self._default_metrics and self.binary and self.reports_unadapted_auc
        self._unadapted_auc = Untracked(LogitAUC(name="unadapted_auc") if reported else None)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            take_gradients_as_summed(self.optimizer)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' metrics, and the AUC before adaptation if it is reported."""
        unadapted = self.unadapted_auc()
        return [*super().metrics, *([] if unadapted is None else [unadapted])]

    def unadapted_auc(self) -> LogitAUC | None:
        """The metric that measures the AUC before adaptation; None if it is not reported.

        A method, because Keras would save a metric that a property returns.
        """
        metric = self._unadapted_auc.value
        return None if metric is None or not self.fine_tune else metric

    def get_compile_config(self) -> dict[str, Any]:
        """Arguments of `compile`, without default metrics.

        `compile` creates those again: Keras does not know ``unadapted_auc``.
        """
        config: dict[str, Any] = super().get_compile_config()
        if not config:
            return config
        config["binary"] = self.binary
        return {**config, "metrics": None} if self._default_metrics else config

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles a loaded model as the saved one was compiled."""
        arguments = keras.saving.deserialize_keras_object(config)
        if is_own(arguments["loss"]):  # files of older versions do not say what it is
            arguments = {"binary": self.binary, **arguments}
        self.compile(**arguments)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """Outputs to predictions: the sigmoid for binary labels."""
        return tf.sigmoid(outputs) if self.binary else outputs

    def task_loss(self, outputs: tf.Tensor, samples: Samples) -> tf.Tensor:
        """Weighted mean loss ``[T]`` of outputs ``[T, S]``."""
        label = samples["label"]
        losses = self._task_loss(
            tf.reshape(label, [-1]), tf.reshape(tf.cast(outputs, label.dtype), [-1])
        )
        return per_task_mean(tf.reshape(losses, tf.shape(label)), samples["weight"])

    def derivatives(
        self, label: tf.Tensor, outputs: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Each row's loss and its first and second derivative with respect to the output."""
        return self._loss_derivatives(tf.cast(label, outputs.dtype), outputs)

    def _checked_binary(self, loss: Any, binary: bool | None) -> bool:
        """Whether labels are binary under this loss; `binary` is the argument of `compile`."""
        label = None if self.encoder is None else self.encoder.schema.label
        if not is_own(loss):
            if binary is not None and bool(binary) != is_binary(loss):
                raise LimamlError(
                    f"binary={binary} contradicts the loss {loss!r}; leave binary out: it says "
                    "what a loss of your own is"
                )
            binary = is_binary(loss)
        elif binary is None:
            binary = label is not None and label.kind == "binary"
        if binary and label is not None and label.kind != "binary":
            raise ValueError(
                f"the label {label.name!r} is not binary (kind {label.kind!r}): compile the model "
                "with a regression loss, for example loss='mse', or with binary=False for a loss "
                "of your own"
            )
        return bool(binary)

    def _set_loss(self, loss: Any, binary: bool | None = None) -> None:
        self._loss = loss
        self._task_loss = sample_loss(loss)
        self._loss_derivatives = loss_derivatives(loss)
        self.binary = is_binary(loss) if binary is None else binary
