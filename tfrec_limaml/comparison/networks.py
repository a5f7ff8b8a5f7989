"""Networks: LiMAML in its variants and the plain network, trained by the toolkit's recipe."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from tfrec_limaml.comparison.rivals import Data, Outcome, Rival
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import served_rows
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.models import LiMAML, TaskModel
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.train import train

_BATCH = 512


def network(options: TrainOptions, whole_network: bool = False) -> Rival:
    """A rival that trains with these options.

    Args:
        options: The recipe.
        whole_network: Score after fine-tuning the whole network per task (`Vanilla` only).
    """
    return functools.partial(_run, options=options, whole_network=whole_network)


def scores(model: TaskModel, data: Data, split: str, served: bool) -> np.ndarray[Any, Any]:
    """Probabilities of a split's rows in the order of the files."""
    dataset = task_dataset(data.pattern(split), model.encoder, _BATCH, with_keys=True)
    if served and isinstance(model, LiMAML):
        rows = served_rows(model, dataset)
    else:
        model.fine_tune = served
        rows = model.predict(dataset, verbose=0)
    if not np.array_equal(rows["label"], getattr(data, split).label):
        raise LimamlError(f"the network scored other {split} rows than the table holds")
    probability: np.ndarray[Any, Any] = rows["probability"].astype(np.float64)
    return probability


def _run(data: Data, seed: int, options: TrainOptions, whole_network: bool) -> Outcome:
    keras.utils.clear_session()
    changes: dict[str, Any] = {"seed": seed}
    if data.epochs is not None:
        changes["epochs"] = data.epochs
    trained = train(data.tasks, options.replace(**changes), task=data.task)
    model = trained.model
    adapts = isinstance(model, LiMAML) or whole_network
    validation = scores(model, data, "validation", adapts)
    return Outcome(
        scores(model, data, "test", adapts),
        auc(data.validation.label, validation),
        unadapted=scores(model, data, "test", False) if adapts else None,
        settings={
            "epochs": trained.result["epochs"],
            "adaptation_strength": model.adaptation_strength,
        },
        served_form=not whole_network,
    )
