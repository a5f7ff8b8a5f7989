"""The AUC before adaptation, reported beside the other metrics of an evaluation."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.task_model import step_data


class _Untracked:
    """Keeps metrics from being tracked by Keras, which would save them."""

    def __init__(self, metrics: list[keras.metrics.Metric]) -> None:
        self.metrics = metrics


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
        """See `TwoBlockModel.compile`.

        Evaluation with fine-tuning also reports ``unadapted_auc``, the AUC before adaptation,
        unless `metrics` are given.
        """
        super().compile(optimizer, loss, metrics, jit_compile, **kwargs)
        reported = metrics is None and self.binary
        name = "unadapted_auc"
        self._reported = _Untracked([keras.metrics.AUC(name=name)] if reported else [])

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' metrics, and the AUC before adaptation."""
        reported = getattr(self, "_reported", None)
        if reported is None or not self.fine_tune:
            return super().metrics
        return [*super().metrics, *reported.metrics]

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """See `TaskModel.test_step`. Like the other metrics, the AUC ignores sample weights."""
        result = super().test_step(data)
        if not self.fine_tune:
            return result
        for metric in self._reported.metrics:
            batch = step_data(data)
            query = batch["query"]
            outputs = self.outputs_of(self.adapt_tasks(batch["support"], None), query)
            rows = query["weight"] > 0
            metric.update_state(
                tf.boolean_mask(query["label"], rows)[:, None],
                self.predictions(tf.boolean_mask(outputs, rows))[:, None],
            )
            result[metric.name] = metric.result()
        return result
