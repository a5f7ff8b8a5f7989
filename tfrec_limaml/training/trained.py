"""The result of a training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfrec_limaml.models import TaskModel


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and the record of its training.

    Attributes:
        model: The model with the weights of the best epoch.
        result: ``algorithm``, ``epochs``, ``best_val_auc``, ``seconds``, ``history`` (the learning
            curves) and ``identity`` (version, data and settings); for models that adapt tasks also
            the support losses before and after adaptation, and the choice of the adaptation
            strength. All JSON types.
    """

    model: TaskModel
    result: dict[str, Any]
