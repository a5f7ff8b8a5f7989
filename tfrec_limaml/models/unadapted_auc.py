"""The AUC before adaptation, reported beside the other metrics of an evaluation."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.models.logit_auc import LogitAUC
from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.task_model import step_data
from tfrec_limaml.models.untracked import Untracked


class ReportsUnadaptedAuc(MAMLModel):
    """A model whose evaluation with fine-tuning also reports ``unadapted_auc``."""

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "binary_crossentropy",
        metrics: Any = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """See `LossAndMetrics.compile`.

        Evaluation with fine-tuning also reports ``unadapted_auc``, the AUC before adaptation,
        unless `metrics` are given.
        """
        super().compile(optimizer, loss, metrics, jit_compile, **kwargs)
        reported = metrics is None and self.binary
        self._unadapted_auc = Untracked(LogitAUC(name="unadapted_auc") if reported else None)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' metrics, and the AUC before adaptation."""
        reported = getattr(self, "_unadapted_auc", None)
        if reported is None or reported.value is None or not self.fine_tune:
            return super().metrics
        return [*super().metrics, reported.value]

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """See `TaskModel.test_step`. Like the other metrics, the AUC ignores sample weights."""
        result = super().test_step(data)
        metric = self._unadapted_auc.value
        if metric is None or not self.fine_tune:
            return result
        batch = step_data(data)
        query = batch["query"]
        outputs = self.outputs_of(self.adapt_tasks(batch["support"], None), query)
        rows = query["weight"] > 0
        metric.update_state(
            tf.boolean_mask(query["label"], rows)[:, None],
            self.predictions(tf.boolean_mask(outputs, rows))[:, None],
        )
        return {**result, metric.name: metric.result()}
