"""AUC whose thresholds resolve predictions of any size."""

from __future__ import annotations

from typing import Any

import keras

#: Logits beyond which predictions are not told apart.
LARGEST_LOGIT = 16.0


@keras.saving.register_keras_serializable(package="tfrec_limaml")
class LogitAUC(keras.metrics.AUC):
    """Area under the ROC curve of probabilities, with thresholds that are even in their logits.

    `keras.metrics.AUC` compares predictions with 200 thresholds between 0 and 1, evenly spaced. If
    1 % of the labels are positive, almost all predictions lie between the first few thresholds, and
    the metric underestimates the area. Here neighbouring thresholds differ by ``32 /
    num_thresholds`` in logits, from -16 to 16, so that the result is close to the exact AUC. If all
    labels are of one class the result is 0, as in Keras; that of
    `tfrec_limaml.evaluation.metrics.auc` is NaN.

    Examples:
        >>> metric = LogitAUC(name="auc")
        >>> metric.update_state([0.0, 1.0, 1.0], [0.001, 0.003, 0.002])

    Args:
        num_thresholds: Number of thresholds.
        name: Name of the metric.
        **kwargs: See `keras.metrics.AUC`. Predictions are probabilities, not logits.

    Raises:
        ValueError: `from_logits` or `thresholds` is given.
    """

    def __init__(self, num_thresholds: int = 4096, name: str | None = "auc", **kwargs: Any) -> None:
        if kwargs.get("from_logits") or kwargs.get("thresholds") is not None:
            raise ValueError(
                "LogitAUC takes probabilities and chooses its thresholds; leave out from_logits "
                "and thresholds"
            )
        super().__init__(num_thresholds=num_thresholds, name=name, **kwargs)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds labels and probabilities ``[N]`` or ``[N, 1]``."""
        p = keras.ops.convert_to_tensor(y_pred, self.dtype)
        logit = keras.ops.log(p) - keras.ops.log1p(-p)
        bounded = keras.ops.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT)
        super().update_state(y_true, 0.5 + bounded / (2 * LARGEST_LOGIT), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config: dict[str, Any] = super().get_config()
        return {k: v for k, v in config.items() if k not in ("from_logits", "thresholds")}
