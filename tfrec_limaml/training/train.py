"""Trains a model on a folder of task records, as ``limaml train`` does."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import adaptation_losses
from tfrec_limaml.models import JointLiMAML, TaskModel
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.checkpoints import CheckpointOptions, Checkpoints
from tfrec_limaml.training.cluster import WORKER_TIMEOUT
from tfrec_limaml.training.data import EpochNumber, TrainingData
from tfrec_limaml.training.distribution import Workers, local_copy
from tfrec_limaml.training.identity import MACHINES, training_identity
from tfrec_limaml.training.lost_workers import RenewTimeLimit, TimeLimit, worker_lost_error
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.optimizer import make_optimizer
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import build_model, load_encoder, require_binary
from tfrec_limaml.training.stopping import ValidationScore, early_stopping
from tfrec_limaml.training.strength import choose_adaptation_strength
from tfrec_limaml.training.trained import Trained
from tfrec_limaml.training.variants import best_as_served, best_on_validation

#: Batches per call from Python.
STEPS_PER_EXECUTION = 8
#: Builds a model, as `build_model` does.
Build = Callable[[str, FeatureEncoder, ModelOptions], TaskModel]


def train(
    tasks: str | Path,
    options: TrainOptions | None = None,
    *,
    task: str | None = None,
    nested: Sequence[str] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    build: Build = build_model,
    checkpoints: CheckpointOptions | None = None,
    strategy: tf.distribute.Strategy | None = None,
    worker_timeout: float = WORKER_TIMEOUT,
) -> Trained:
    """Trains with early stopping on the validation tasks.

    Args:
        tasks: Folder written by ``limaml prepare``.
        options: The settings; the defaults if None.
        task: Task definition; the schema's first by default.
        nested: Further definitions that refine it; see `NestedMetaBlocks`.
        callbacks: Called after the early stopping.
        build: Builds the model from algorithm, encoder and options, for your own models.
        checkpoints: Where to write checkpoints, and whether to continue from the newest; None for
            no checkpoints.
        strategy: Trains on all devices, or all workers, of this strategy; see
            `tfrec_limaml.training.distribution`. The returned model has no strategy.
        worker_timeout: Seconds without a batch after which other workers count as lost and the
            process exits.

    Returns:
        The model and the result.

    Raises:
        LimamlError: The label is not binary, the checkpoint belongs to another training, or another
            worker is gone or differs.
    """
    options = TrainOptions() if options is None else options
    if options.model.joint_task is not None:
        _check_joint(options.model.joint_task, nested, checkpoints)
    encoder = load_encoder(tasks, task, nested)
    require_binary(encoder.schema, "`limaml train`")
    workers = Workers.of(strategy)
    work = _Work(tasks, task, encoder, tuple(callbacks), build, workers, worker_timeout)
    limit = TimeLimit(worker_timeout, "the other workers")
    started = time.perf_counter()
    with _worker_failures(workers, limit):
        fit = functools.partial(_fit, work, limit)

        def train_as_served(
            options: TrainOptions, checkpoints: CheckpointOptions | None
        ) -> Trained:
            best = best_on_validation(fit, options, encoder.schema, checkpoints)
            with limit.paused():
                return _finish(work, best)

        trained = best_as_served(train_as_served, options, checkpoints, work.of_chief)
    seconds = round(time.perf_counter() - started, 2)
    further = {"total_seconds": seconds, "identity": work.identity(options)}
    return Trained(trained.model, trained.result | further)


def _check_joint(task: str, nested: Sequence[str], checkpoints: CheckpointOptions | None) -> None:
    """Raises `LimamlError` for what a model of two definitions cannot be combined with."""
    if nested:
        raise LimamlError(
            f"joint_task {task!r} and nested definitions {list(nested)} cannot be combined: choose "
            f"one"
        )
    if checkpoints is not None and checkpoints.steps:
        raise LimamlError(
            f"joint_task {task!r} has checkpoints only after whole epochs, since its table of "
            f"offsets is computed at their start; leave out --checkpoint-steps"
        )


@dataclasses.dataclass(frozen=True)
class _Work:
    """The arguments of `train` other than the options."""

    tasks: str | Path
    task: str | None
    encoder: FeatureEncoder
    callbacks: tuple[keras.callbacks.Callback, ...]
    build: Build
    workers: Workers
    timeout: float

    def of_chief(self, value: float) -> float:
        """The first worker's value."""
        return float(self.workers.exchange({"value": value})[0]["value"])

    def identity(self, options: TrainOptions) -> dict[str, Any]:
        """The values that determine the weights besides the records, by name."""
        machines = (self.workers.share.workers, self.workers.replicas)
        return {
            **training_identity(self.tasks, self.task, self.encoder, options),
            **dict(zip(MACHINES, machines, strict=True)),
        }


@contextlib.contextmanager
def _worker_failures(workers: Workers, limit: TimeLimit) -> Iterator[None]:
    """Ends the process, or raises an error, if another worker is gone."""
    try:
        with limit if workers.share.workers > 1 else contextlib.nullcontext():
            yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if workers.share.workers == 1:
            raise
        raise worker_lost_error(error) from error


@dataclasses.dataclass(frozen=True)
class _Fitted(Trained):
    """A trained model with the data and options of its training; `_finish` adds to the result."""

    data: TrainingData
    options: TrainOptions


def _fit(
    work: _Work, limit: TimeLimit, options: TrainOptions, checkpoints: CheckpointOptions | None
) -> _Fitted:
    """One training."""
    keras.utils.set_random_seed(options.seed)
    workers, encoder = work.workers, work.encoder
    data = TrainingData.of(work.tasks, encoder, options, work.task, workers, work.identity(options))
    epochs = options.epochs_for(data.steps)
    limit.renew()
    started = time.perf_counter()
    with workers.scope():
        model = work.build(options.algorithm, encoder, options.model)
        model.compile(
            make_optimizer(options, data.steps * epochs),
            steps_per_execution=1 if workers.call_each_batch else STEPS_PER_EXECUTION,
        )
    stopping = early_stopping(options)
    callbacks = _callbacks(work, limit, data, model, stopping)
    writers = _checkpoints(work, data, stopping[-1], checkpoints)
    history = model.fit(
        workers.distribute(data.training),
        validation_data=workers.distribute(data.validation),
        initial_epoch=writers[0].initial_epoch(epochs) if writers else 0,
        epochs=epochs,
        callbacks=[*callbacks, *writers],
        verbose=0,
    )
    seconds = round(time.perf_counter() - started, 2)
    _require_finite(model, options)
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    result = {
        **_curve_summary(options, curves, seconds, data),
        "max_epochs": epochs,
        "batch_size": data.batch_size,
        "workers": workers.share.workers,
        "options": dataclasses.asdict(options),
        "history": curves,
    }
    return _Fitted(model, result, data, options)


def _require_finite(model: TaskModel, options: TrainOptions) -> None:
    """Raises `LimamlError` if training has diverged."""
    if not all(np.isfinite(v.numpy()).all() for v in model.trainable_variables):
        raise LimamlError(
            "training has diverged: weights of the model are not finite; lower learning_rate (now "
            f"{options.learning_rate:g}), or check the features for huge values"
        )


def _callbacks(
    work: _Work,
    limit: TimeLimit,
    data: TrainingData,
    model: TaskModel,
    stopping: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """The callbacks of a training, without its checkpoints."""
    callbacks = [EpochNumber(data.epoch), *stopping, *work.callbacks, RenewTimeLimit(limit)]
    if data.joint is not None and isinstance(model, JointLiMAML):
        callbacks.append(data.joint.callback(model))
    return callbacks


def _checkpoints(
    work: _Work,
    data: TrainingData,
    stopping: keras.callbacks.Callback,
    options: CheckpointOptions | None,
) -> list[Checkpoints]:
    """The callback that writes checkpoints, if any are wanted."""
    if options is None:
        return []
    writer = Checkpoints(options, data.identity, stopping, work.workers.is_chief)
    work.workers.require_same_run({"checkpoint": writer.position})
    return [writer]


def _curve_summary(
    options: TrainOptions,
    curves: dict[str, list[float]],
    seconds: float,
    data: TrainingData,
) -> dict[str, Any]:
    scores = curves[ValidationScore.NAME]
    best = curves["val_auc"][scores.index(max(scores))]
    # Keras gives 0 where the AUC is undefined.
    undefined = best == 0 and len(data.validation_labels()) < 2
    return {
        "algorithm": options.algorithm,
        "epochs": len(curves["loss"]),
        "best_val_auc": None if undefined else best,
        "best_val_score": max(scores),
        "seconds": seconds,
    }


def _finish(work: _Work, fitted: _Fitted) -> Trained:
    """Chooses the adaptation strength, on each worker separately, and measures support losses, if
    the model adapts tasks.
    """
    model, data, options, result = fitted.model, fitted.data, fitted.options, fitted.result
    if work.workers.strategy is not None:
        model = local_copy(model)
    if not model.fine_tune:
        return Trained(model, result)
    validation = task_dataset(
        data.validation_pattern,
        work.encoder,
        SCORED_TASKS,
        max_samples=options.max_samples,
        with_keys=True,
        in_order=False,
        by_rows=True,
        side=data.side,
    )
    if options.choose_strength:
        changed = None if data.joint is None else data.refresh_table
        result |= choose_adaptation_strength(model, validation, changed=changed)
    data.refresh_table()
    return Trained(model, result | adaptation_losses(model, validation))
