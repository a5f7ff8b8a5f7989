"""Computes the table of offsets that a model of two definitions scores with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.models import JointLiMAML
from tfrec_limaml.tasks.sides import Side, Sides


class OffsetTable:
    """Computes a model's table of offsets from the support rows of both definitions' records.

    Args:
        model: The model with the table.
        sides: The tasks of both definitions.
    """

    def __init__(self, model: JointLiMAML, sides: Sides) -> None:
        self._model = model
        self._sides = sides
        self._steps: list[Callable[[Any, tf.Tensor], None]] = []

    def make(self, datasets: Sequence[tf.data.Dataset]) -> None:
        """Computes the table with the model's current weights and adaptation strength.

        Adapts the second definition's tasks given the first one's, then vice versa; repeats this
        `sweeps` times.

        Args:
            datasets: Batches of each definition's tasks with keys, first definition first.
        """
        strength = self._model.adaptation_strength
        self._model.clear_table(self._sides.rows)
        if not strength:
            return
        if not self._steps:
            self._steps = [
                self._step(side, dataset.element_spec)
                for side, dataset in zip(self._sides.pair, datasets, strict=True)
            ]
        value = tf.constant(strength, self._model.variable_dtype)
        for _ in range(self._model.sweeps):
            for number in (1, 0):
                for batch in datasets[number]:
                    self._steps[number](batch, value)

    def _step(self, side: Side, spec: Any) -> Callable[[Any, tf.Tensor], None]:
        def fill(batch: Mapping[str, Any], strength: tf.Tensor) -> None:
            with self._model.traced_strength(strength):
                self._model.fill_table(side.own_rows(batch["task_key"]), batch["support"])

        scalar = tf.TensorSpec([], self._model.variable_dtype)
        step: Callable[[Any, tf.Tensor], None] = tf.function(
            fill, input_signature=[spec, scalar], autograph=False
        )
        return step


class RefreshTable(keras.callbacks.Callback):
    """Computes the table before each epoch, and before each validation."""

    def __init__(
        self, begin_epoch: Callable[[], None], begin_validation: Callable[[], None]
    ) -> None:
        super().__init__()
        self._begin_epoch = begin_epoch
        self._begin_validation = begin_validation

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Computes the table from rows before the epoch's split times."""
        self._begin_epoch()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Computes the table from all training rows."""
        self._begin_validation()
