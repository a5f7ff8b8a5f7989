"""Early stopping on the validation tasks, with and without adaptation."""

from __future__ import annotations

from typing import Any

import keras

from tfrec_limaml.training.options import TrainOptions


class ValidationScore(keras.callbacks.Callback):
    """Adds ``val_score`` to an epoch's logs.

    It is the mean of the validation AUCs with and without adaptation, so that tasks without an
    embedding matter too.
    """

    NAME = "val_score"

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Computes the score, for later callbacks."""
        if logs is not None and "val_auc" in logs:
            logs[self.NAME] = (logs["val_auc"] + logs.get("val_unadapted_auc", logs["val_auc"])) / 2


def averaging(options: TrainOptions) -> list[keras.callbacks.Callback]:
    """Averaged weights at the end of each epoch, if the options have them."""
    averaged = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    return averaged if options.average_weights else []


def early_stopping(options: TrainOptions) -> list[keras.callbacks.Callback]:
    """Early stopping on adapted and un-adapted validation AUC, of the averaged weights."""
    return [
        *averaging(options),
        ValidationScore(),
        keras.callbacks.EarlyStopping(
            ValidationScore.NAME,
            mode="max",
            patience=options.patience,
            restore_best_weights=True,
        ),
    ]
