"""Trains a model on a folder of task records, as ``limaml train`` does."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import adaptation_losses
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.checkpoints import CheckpointOptions
from tfrec_limaml.training.cluster import WORKER_TIMEOUT
from tfrec_limaml.training.distribution import Workers, local_copy
from tfrec_limaml.training.fit import Build, Fitted, Work, fit_model
from tfrec_limaml.training.lost_workers import TimeLimit, worker_lost_error
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import build_model, load_encoder, require_binary
from tfrec_limaml.training.refit import Chosen
from tfrec_limaml.training.strength import choose_adaptation_strength
from tfrec_limaml.training.trained import Trained
from tfrec_limaml.training.variants import best_as_served, best_on_validation


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
    refit: Chosen | Trained | str | Path | None = None,
) -> Trained:
    """Trains with early stopping on the validation tasks, or with the choices of an earlier run.

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
        refit: A training run whose options, number of epochs and adaptation strength are used,
            instead of choosing them on validation rows: its result, its ``.training.json`` file, or
            what `Chosen` has read of them. The records need no validation rows (``limaml prepare
            --no-validation``). Leave out `options`, `task` and `nested`.

    Returns:
        The model and the result.

    Raises:
        LimamlError: The label is not binary, the checkpoint belongs to another training, another
            worker is gone or differs, or the run to refit has another schema.
    """
    chosen = _chosen(refit, options, task, nested)
    if chosen is not None:
        options, task, nested = chosen.options, chosen.task, chosen.nested
    options = options or TrainOptions()
    if options.model.joint_task is not None:
        _check_joint(options.model.joint_task, nested, checkpoints)
    encoder = load_encoder(tasks, task, nested)
    require_binary(encoder.schema, "`limaml train`")
    if chosen is not None:
        chosen.check(encoder)
    workers = Workers.of(strategy)
    work = Work(tasks, task, encoder, tuple(callbacks), build, workers, worker_timeout, chosen)
    limit = TimeLimit(worker_timeout, "the other workers")
    started = time.perf_counter()
    with _worker_failures(workers, limit):
        fit = functools.partial(fit_model, work, limit)

        def train_as_served(options: TrainOptions, files: CheckpointOptions | None) -> Trained:
            best = best_on_validation(fit, options, encoder.schema, files)
            with limit.paused():
                return _finish(work, best)

        if chosen is not None:
            trained = _finish_refit(work, chosen, fit(options, checkpoints))
        else:
            trained = best_as_served(train_as_served, options, checkpoints, work.of_chief)
    seconds = round(time.perf_counter() - started, 2)
    further = {"total_seconds": seconds, "identity": work.identity(options)}
    return Trained(trained.model, trained.result | further)


def _chosen(
    refit: Chosen | Trained | str | Path | None,
    options: TrainOptions | None,
    task: str | None,
    nested: Sequence[str],
) -> Chosen | None:
    if refit is None:
        return None
    if options is not None or task is not None or nested:
        raise LimamlError(
            "refit takes options, task and nested from the earlier run; leave them out"
        )
    return Chosen.of(refit)


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


def _finish_refit(work: Work, chosen: Chosen, fitted: Fitted) -> Trained:
    """Sets the chosen adaptation strength."""
    model, result = fitted.model, fitted.result
    if work.workers.strategy is not None:
        model = local_copy(model)
    if model.fine_tune:
        model.adaptation_strength = chosen.adaptation_strength
        result["adaptation_strength"] = chosen.adaptation_strength
    return Trained(model, result)


def _finish(work: Work, fitted: Fitted) -> Trained:
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
