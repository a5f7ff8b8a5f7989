"""Trains a model on a folder of task records: what ``limaml train`` does, as a function."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.evaluation import adaptation_losses
from tfrec_limaml.models import TaskModel
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import STATISTICS_FILE, episodes_in
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_files import count_tasks, record_files
from tfrec_limaml.training.checkpoints import CheckpointOptions, Checkpoints
from tfrec_limaml.training.options import ModelOptions, TrainOptions
from tfrec_limaml.training.recipes import build_model, load_encoder, split_pattern
from tfrec_limaml.training.schedules import warmup_cosine
from tfrec_limaml.training.strength import choose_adaptation_strength

#: Batches between two visits to Python.
STEPS_PER_EXECUTION = 8
#: Makes a model, as `build_model` does.
Build = Callable[[str, FeatureEncoder, ModelOptions], TaskModel]
#: Variables without weight decay, by parts of their names.
NOT_DECAYED = ("bias", "scaled_log", "inner_rate")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and the record of its training.

    Attributes:
        model: With the weights of the best epoch.
        result: ``algorithm``, ``epochs``, ``best_val_auc``, ``seconds``, ``history`` (the learning
            curves), support losses before and after adaptation, and the choice of the adaptation
            strength; all JSON types.
    """

    model: TaskModel
    result: dict[str, Any]


def train(
    tasks: str | Path,
    options: TrainOptions | None = None,
    *,
    task: str | None = None,
    nested: Sequence[str] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    build: Build = build_model,
    checkpoints: CheckpointOptions | None = None,
) -> Trained:
    """Trains with early stopping on the validation tasks.

    Args:
        tasks: Folder written by ``limaml prepare``.
        options: The settings; the defaults where None.
        task: Task definition; the schema's first by default.
        nested: Further definitions that refine it; see `NestedMetaBlocks`.
        callbacks: Called after the early stopping.
        build: Makes the model of algorithm, encoder and options: for models of your own.
        checkpoints: Where to write checkpoints, and whether to go on from the newest; None for no
            checkpoints.

    Returns:
        The model and the result.

    Raises:
        LimamlError: The checkpoint to go on from is one of another training.
    """
    options = TrainOptions() if options is None else options
    encoder = load_encoder(tasks, task, nested)
    work = _Work(tasks, task, encoder, tuple(callbacks), build)
    if options.model.id_embeddings is not None or not _history_tells_of_ids(encoder.schema):
        return _train(work, options, checkpoints)
    tried = [
        _train(
            work,
            options.replace(id_embeddings=choice),
            checkpoints and checkpoints.within("with_ids" if choice else "without_ids"),
        )
        for choice in (True, False)
    ]
    scores = [trained.result["best_val_score"] for trained in tried]
    best = tried[0] if scores[0] >= scores[1] else tried[1]
    best.result["val_score_by_id_embeddings"] = {"with": scores[0], "without": scores[1]}
    return best


def _history_tells_of_ids(schema: Schema) -> bool:
    """Whether a history feature is keyed by an embedded ID alone."""
    ids = {f.name for f in schema.features if f.embedding_width and f.separator is None}
    return any(len(history.keys) == 1 and history.keys[0] in ids for history in schema.history)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What `train` is given beside the options."""

    tasks: str | Path
    task: str | None
    encoder: FeatureEncoder
    callbacks: tuple[keras.callbacks.Callback, ...]
    build: Build

    def identity(self, options: TrainOptions, data: _Data) -> dict[str, Any]:
        """What decides about the weights, by name."""
        statistics = (Path(self.tasks) / STATISTICS_FILE).read_bytes()
        return {
            "version": version("tfrec-limaml"),
            "schema fingerprint": self.encoder.schema.fingerprint(),
            "statistics digest": hashlib.sha256(statistics).hexdigest()[:16],
            "task definitions": [self.task, *self.encoder.nested],
            "number of files": data.files,
            "number of tasks": data.tasks,
            **_flat(dataclasses.asdict(options)),
        }


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Options by name, those of the model among them."""
    of_model = options.pop("model")
    return {f"option {name}": value for name, value in {**options, **of_model}.items()}


@dataclasses.dataclass(frozen=True)
class _Data:
    """Training batches and the number of the epoch that they read, validation batches, tasks per
    training batch, training batches per epoch, and training files and tasks.
    """

    training: tf.data.Dataset
    epoch: tf.Variable
    validation: tf.data.Dataset
    validation_pattern: str
    batch_size: int
    steps: int
    files: int
    tasks: int

    @classmethod
    def of(cls, work: _Work, options: TrainOptions) -> _Data:
        tasks, task, encoder = work.tasks, work.task, work.encoder
        pattern, validation_pattern = (
            split_pattern(tasks, task, split, encoder.schema) for split in ("train", "validation")
        )
        count, rows = count_tasks(pattern)
        size = options.batch_size or max(1, min(128, round(options.batch_rows * count / rows)))
        epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        training = training_data(tasks, options, task, encoder, size, epoch)
        validation = task_dataset(
            validation_pattern, encoder, 4 * size, max_samples=options.max_samples
        )
        steps = math.ceil(count / size)
        files = len(record_files(pattern))
        return cls(training, epoch, validation, validation_pattern, size, steps, files, count)


def _train(work: _Work, options: TrainOptions, checkpoints: CheckpointOptions | None) -> Trained:
    keras.utils.set_random_seed(options.seed)
    encoder = work.encoder
    model = work.build(options.algorithm, encoder, options.model.replace(task=work.task))
    data = _Data.of(work, options)
    model.compile(
        make_optimizer(options, data.steps * options.epochs),
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    started = time.perf_counter()
    callbacks = [_EpochNumber(data.epoch), *_stopping(options), *work.callbacks]
    first = 0
    if checkpoints is not None:
        (stopping,) = (c for c in callbacks if isinstance(c, keras.callbacks.EarlyStopping))
        writer = Checkpoints(checkpoints, work.identity(options, data), stopping)
        first = writer.initial_epoch(options.epochs)
        callbacks.append(writer)
    history = model.fit(
        data.training,
        validation_data=data.validation,
        initial_epoch=first,
        epochs=options.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    result = {
        "algorithm": options.algorithm,
        "epochs": len(curves["loss"]),
        "best_val_auc": max(curves["val_auc"]),
        "best_val_score": max(curves[ValidationScore.NAME]),
        "seconds": round(time.perf_counter() - started, 2),
        "batch_size": data.batch_size,
        "options": dataclasses.asdict(options),
        "history": curves,
    }
    if options.choose_strength and model.fine_tune:
        keyed = task_dataset(
            data.validation_pattern, encoder, 512, max_samples=options.max_samples, with_keys=True
        )
        result |= choose_adaptation_strength(model, keyed)
    return Trained(model, result | adaptation_losses(model, data.validation))


def training_data(
    tasks: str | Path,
    options: TrainOptions,
    task: str | None,
    encoder: FeatureEncoder,
    batch_size: int,
    epoch: tf.Variable,
) -> tf.data.Dataset:
    """Batches of each task once per epoch: of the training records, or of one episode after
    another.

    Args:
        tasks: Folder written by ``limaml prepare``.
        options: The settings.
        task: Task definition; the schema's first by default.
        encoder: Encodes the features.
        batch_size: Tasks per batch; on average, where the options leave it to `batch_rows`.
        epoch: Number of the epoch, int64, kept up to date by the caller.
    """
    definition = Path(tasks) / (task or encoder.schema.default_task)
    splits = (episodes_in(definition) if options.as_served else ()) or ("train",)
    return task_dataset(
        [split_pattern(tasks, task, split, encoder.schema) for split in splits],
        encoder,
        batch_size,
        support_fraction=options.support_fraction,
        max_samples=options.max_samples,
        shuffle=True,
        seed=options.seed,
        epoch=epoch,
        by_rows=options.batch_size is None,
    )


class _EpochNumber(keras.callbacks.Callback):
    """Tells the input pipeline the number of the epoch."""

    def __init__(self, number: tf.Variable) -> None:
        super().__init__()
        self.number = number

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.number.assign(epoch)


def make_optimizer(options: TrainOptions, steps: int) -> keras.optimizers.Optimizer:
    """AdamW over `steps` batches, with the options' schedule, decay and averaging."""
    rate: Any = options.learning_rate
    if options.decay:
        warmup = min(options.warmup_steps, steps // 4)
        rate = warmup_cosine(options.learning_rate, steps, warmup)
    average = options.average_weights
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=options.weight_decay,
        global_clipnorm=1.0,
        use_ema=average > 0,
        ema_momentum=average or 0.99,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer


def _stopping(options: TrainOptions) -> list[keras.callbacks.Callback]:
    """Early stopping on adapted and un-adapted validation AUC, of the averaged weights."""
    averaged = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    return [
        *(averaged if options.average_weights else []),
        ValidationScore(),
        keras.callbacks.EarlyStopping(
            ValidationScore.NAME,
            mode="max",
            patience=options.patience,
            restore_best_weights=True,
        ),
    ]


class ValidationScore(keras.callbacks.Callback):
    """Adds ``val_score`` to an epoch's logs: the mean of the validation AUCs with and without
    adaptation, so that tasks without an embedding count too.
    """

    NAME = "val_score"

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Computes the score; callbacks behind this one see it."""
        if logs is not None and "val_auc" in logs:
            logs[self.NAME] = (logs["val_auc"] + logs.get("val_unadapted_auc", logs["val_auc"])) / 2
