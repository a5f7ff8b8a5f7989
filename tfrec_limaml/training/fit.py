"""One training run: its data, callbacks and learning curves."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.models import JointLiMAML, TaskModel
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.checkpoints import CheckpointOptions, Checkpoints
from tfrec_limaml.training.data import EpochNumber, TrainingData
from tfrec_limaml.training.distribution import Workers
from tfrec_limaml.training.identity import MACHINES, training_identity
from tfrec_limaml.training.lost_workers import RenewTimeLimit, TimeLimit
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.optimizer import make_optimizer
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.refit import Chosen
from tfrec_limaml.training.stopping import ValidationScore, averaging, early_stopping
from tfrec_limaml.training.trained import Trained

#: Batches per call from Python.
STEPS_PER_EXECUTION = 8
#: Builds a model, as `build_model` does.
Build = Callable[[str, FeatureEncoder, ModelOptions], TaskModel]


@dataclasses.dataclass(frozen=True)
class Work:
    """The arguments of `train` other than the options."""

    tasks: str | Path
    task: str | None
    encoder: FeatureEncoder
    callbacks: tuple[keras.callbacks.Callback, ...]
    build: Build
    workers: Workers
    timeout: float
    chosen: Chosen | None

    def of_chief(self, value: float) -> float:
        """The first worker's value."""
        return float(self.workers.exchange({"value": value})[0]["value"])

    def identity(self, options: TrainOptions) -> dict[str, Any]:
        """The values that determine the weights besides the records, by name."""
        machines = (self.workers.share.workers, self.workers.replicas)
        return {
            **training_identity(self.tasks, self.task, self.encoder, options),
            **(self.chosen.identity() if self.chosen else {}),
            **dict(zip(MACHINES, machines, strict=True)),
        }


@dataclasses.dataclass(frozen=True)
class Fitted(Trained):
    """A trained model with the data and options of its training; `_finish` adds to the result."""

    data: TrainingData
    options: TrainOptions


def fit_model(
    work: Work, limit: TimeLimit, options: TrainOptions, checkpoints: CheckpointOptions | None
) -> Fitted:
    """One training run."""
    keras.utils.set_random_seed(options.seed)
    workers, chosen, data = work.workers, work.chosen, _data(work, options)
    epochs = options.epochs_for(data.steps)
    last = epochs if chosen is None else chosen.epochs
    limit.renew()
    started = time.perf_counter()
    model = _compiled(work, options, data.steps * epochs)
    stopping = early_stopping(options) if chosen is None else averaging(options)
    callbacks = _callbacks(work, limit, data, model, stopping)
    writers = _checkpoints(work, data, stopping[-1] if chosen is None else None, checkpoints)
    validation = None if data.validation is None else workers.distribute(data.validation)
    history = model.fit(
        workers.distribute(data.training),
        validation_data=validation,
        initial_epoch=writers[0].initial_epoch(last) if writers else 0,
        epochs=last,
        callbacks=[*callbacks, *writers],
        verbose=0,
    )
    seconds = round(time.perf_counter() - started, 2)
    _require_finite(model, options)
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    result = {
        "algorithm": options.algorithm,
        "epochs": len(curves["loss"]),
        **(_validation_summary(curves, data) if chosen is None else {"refit": True}),
        "seconds": seconds,
        "max_epochs": epochs,
        "batch_size": data.batch_size,
        "episodes": data.episodes,
        "workers": workers.share.workers,
        "options": dataclasses.asdict(options),
        "history": curves,
    }
    return Fitted(model, result, data, options)


def _data(work: Work, options: TrainOptions) -> TrainingData:
    """The datasets, without validation batches for a refit."""
    chosen, identity = work.chosen, work.identity(options)
    data = TrainingData.of(
        *(work.tasks, work.encoder, options, work.task, work.workers, identity),
        validation=chosen is None,
    )
    if chosen is not None:
        chosen.check_episodes(data.episodes)
    return data


def _compiled(work: Work, options: TrainOptions, steps: int) -> TaskModel:
    """A new model, for this number of batches in all epochs."""
    with work.workers.scope():
        model = work.build(options.algorithm, work.encoder, options.model)
        model.compile(
            make_optimizer(options, steps),
            steps_per_execution=1 if work.workers.call_each_batch else STEPS_PER_EXECUTION,
        )
    return model


def _require_finite(model: TaskModel, options: TrainOptions) -> None:
    """Raises `LimamlError` if training has diverged."""
    if not all(np.isfinite(v.numpy()).all() for v in model.trainable_variables):
        raise LimamlError(
            "training has diverged: weights of the model are not finite; lower learning_rate (now "
            f"{options.learning_rate:g}), or check the features for huge values"
        )


def _callbacks(
    work: Work,
    limit: TimeLimit,
    data: TrainingData,
    model: TaskModel,
    stopping: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """The callbacks of a training run, without its checkpoints."""
    callbacks = [EpochNumber(data.epoch), *stopping, *work.callbacks, RenewTimeLimit(limit)]
    if data.joint is not None and isinstance(model, JointLiMAML):
        callbacks.append(data.joint.callback(model))
    return callbacks


def _checkpoints(
    work: Work,
    data: TrainingData,
    stopping: keras.callbacks.EarlyStopping | None,
    options: CheckpointOptions | None,
) -> list[Checkpoints]:
    """The callback that writes checkpoints, if any are wanted."""
    if options is None:
        return []
    writer = Checkpoints(options, data.identity, stopping, work.workers.is_chief)
    work.workers.require_same_run({"checkpoint": writer.position})
    return [writer]


def _validation_summary(curves: dict[str, list[float]], data: TrainingData) -> dict[str, Any]:
    scores = curves[ValidationScore.NAME]
    best = curves["val_auc"][scores.index(max(scores))]
    # Keras gives 0 where the AUC is undefined.
    undefined = best == 0 and len(data.validation_labels()) < 2
    return {"best_val_auc": None if undefined else best, "best_val_score": max(scores)}
