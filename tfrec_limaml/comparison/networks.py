"""Networks: variants of LiMAML and the plain network, trained by the toolkit's recipes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfrec_limaml.arrays import Floats
from tfrec_limaml.comparison.rivals import Data, Outcome, Rival
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import served_rows
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.models import LiMAML, TaskModel
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.fit import Build
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import build_model
from tfrec_limaml.training.train import train


def network(
    options: TrainOptions,
    in_place: bool = False,
    build: Build = build_model,
    batch: int = SCORED_TASKS,
) -> Rival:
    """A rival that trains with these options.

    Args:
        options: The recipe.
        in_place: Score with the adapted weights, which cannot be stored, instead of the stored
            embeddings.
        build: Builds the model; see `train`.
        batch: Tasks per batch when scoring.
    """
    return functools.partial(_run, options=options, in_place=in_place, build=build, batch=batch)


def scores(
    model: TaskModel,
    data: Data,
    split: str,
    adapted: bool,
    in_place: bool = False,
    batch: int = SCORED_TASKS,
) -> Floats:
    """Probabilities of a split's rows in the order of the files; see `network`."""
    dataset = task_dataset(
        data.pattern(split), model.encoder, batch, with_keys=True, in_order=False, by_rows=True
    )
    if adapted and not in_place:
        rows = served_rows(model, dataset)
    else:
        model.fine_tune = adapted
        rows = model.predict(dataset, verbose=0)
    return in_order_of(getattr(data, split), rows, split)


def in_order_of(table: Rows, scored: Mapping[str, Any], split: str) -> Floats:
    """The probabilities of scored rows, in the order of the table.

    Raises:
        LimamlError: The table holds other rows.
    """
    if len(scored["label"]) == len(table.label):
        order = table.order_of(scored["task_key"])
        if np.array_equal(scored["label"][order], table.label):
            probability: Floats = scored["probability"][order].astype(np.float64)
            return probability
    raise LimamlError(f"the network scored other {split} rows than the table holds")


def _run(
    data: Data, seed: int, options: TrainOptions, in_place: bool, build: Build, batch: int
) -> Outcome:
    keras.utils.clear_session()
    changes: dict[str, Any] = {"seed": seed}
    if data.epochs is not None:
        changes["epochs"] = data.epochs
    trained = train(data.tasks, options.replace(**changes), task=data.task, build=build)
    model = trained.model
    adapts = isinstance(model, LiMAML) or in_place
    score = functools.partial(scores, model, data, in_place=in_place, batch=batch)
    return Outcome(
        score("test", adapts),
        auc(data.validation.label, score("validation", adapts)),
        unadapted=score("test", False) if adapts else None,
        settings={
            "epochs": trained.result["epochs"],
            "adaptation_strength": model.adaptation_strength,
        },
        served_form=not in_place,
    )
