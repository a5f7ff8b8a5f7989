"""The datasets of a training run: training records, or one episode per epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import episodes_in
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_files import count_tasks, record_files
from tfrec_limaml.tasks.sides import Side, check_definitions
from tfrec_limaml.tasks.support_fraction import support_range
from tfrec_limaml.training.distribution import Workers
from tfrec_limaml.training.joint import JointRecords
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import split_pattern

#: Rows per task that the number of tasks in a batch is chosen for, at least.
MIN_ROWS = 8
#: The split of plain training records.
_PLAIN = ("train",)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The batches of one worker.

    Attributes:
        training: Training batches.
        epoch: Number of the current epoch, int64; `EpochNumber` keeps it up to date.
        validation: Validation batches, or None.
        validation_pattern: File pattern of the validation tasks.
        batch_size: Training tasks per batch, over all replicas.
        steps: Training batches per epoch.
        identity: Values that determine the weights, by name.
        episodes: Number of episodes that are read in turn; 0 for plain training records.
        joint: The records of both definitions, if the model adapts two sides.
    """

    training: tf.data.Dataset
    epoch: tf.Variable
    validation: tf.data.Dataset | None
    validation_pattern: str
    batch_size: int
    steps: int
    identity: dict[str, Any]
    episodes: int = 0
    joint: JointRecords | None = None

    def refresh_table(self) -> None:
        """Computes the table that scores validation tasks, if the model adapts two sides."""
        if self.joint is not None:
            self.joint.fill_validation_table()

    @property
    def side(self) -> Side | None:
        """The side of the validation tasks."""
        return None if self.joint is None else self.joint.side

    def validation_labels(self) -> set[float]:
        """The distinct labels of the validation rows."""
        found: set[float] = set()
        for batch in self.validation or ():
            query = batch["query"]
            found |= set(tf.boolean_mask(query["label"], query["weight"] > 0).numpy().tolist())
        return found

    @classmethod
    def of(
        cls,
        tasks: str | Path,
        encoder: FeatureEncoder,
        options: TrainOptions,
        task: str | None = None,
        workers: Workers | None = None,
        identity: Mapping[str, Any] | None = None,
        *,
        validation: bool = True,
    ) -> TrainingData:
        """The datasets of a folder of task records, after all workers have compared their data.

        Pass `EpochNumber` to the callbacks of `fit`.

        Args:
            tasks: Folder written by ``limaml prepare``.
            encoder: Encodes the features.
            options: The settings. Of the model's settings, only `joint_task` matters.
            task: Task definition; the schema's first by default.
            workers: The processes that train; by default only this one.
            identity: Other values that determine the weights, by name.
            validation: Whether validation batches are needed.

        Raises:
            LimamlError: `validation` is True, but there are no validation rows.
            VersionMismatchError: The identities or numbers of files of the workers differ.
        """
        workers, identity = workers or Workers(), identity or {}
        if options.model.joint_task is not None:
            return cls._of_two_definitions(tasks, options, task, encoder, workers, identity)
        splits = _training_splits(tasks, options, task, encoder)
        names = (*splits, "validation")
        *training, scored = (split_pattern(tasks, task, n, encoder.schema) for n in names)
        patterns = [*training, scored] if validation else training
        identity, counts = _counts_of_workers(patterns, workers, identity)
        if validation:
            _require_validation(counts[-1], tasks)
        total, rows = (sum(count[k] for count in counts[0]) for k in (0, 1))
        size, many = _batch_size(options, total, rows), len(training)
        sizes = [workers.per_replica(n) for n in (*[size] * many, 2 * size)][: len(patterns)]
        steps = [workers.steps([c[0] for c in n], s) for n, s in zip(counts, sizes, strict=True)]
        epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        batches = [n * workers.replicas for n in steps] if workers.all_replicas > 1 else None
        shared = options, encoder, workers
        return cls(
            _training_dataset(training, *shared, sizes[0], epoch, batches and batches[:many]),
            epoch,
            _validation_dataset(scored, *shared, sizes[-1], batches and batches[many:])
            if validation
            else None,
            scored,
            size,
            max(steps[:many]),
            {**identity, "number of tasks": total},
            episodes=0 if splits == _PLAIN else many,
        )

    @classmethod
    def _of_two_definitions(
        cls,
        tasks: str | Path,
        options: TrainOptions,
        task: str | None,
        encoder: FeatureEncoder,
        workers: Workers,
        identity: Mapping[str, Any],
    ) -> TrainingData:
        """`of`, for a model of two definitions."""
        if workers.strategy is not None:
            raise LimamlError(
                "a model of two definitions (joint_task) trains on one device; leave out the "
                "strategy (--distribute)"
            )
        epoch = tf.Variable(0, trainable=False, dtype=tf.int64)
        joint = _joint_records(tasks, options, task, encoder, epoch)
        counts = [count_tasks(patterns[0]) for patterns in joint.patterns]
        sizes = [_batch_size(options, *count) for count in counts]
        validation = split_pattern(tasks, task, "validation", encoder.schema)
        return cls(
            joint.training(sizes, options.batch_size is None, options.seed),
            epoch,
            task_dataset(
                validation,
                encoder,
                2 * sizes[0],
                max_samples=options.max_samples,
                by_rows=True,
                side=joint.side,
            ),
            validation,
            sizes[0],
            sum(-(-total // size) for (total, _), size in zip(counts, sizes, strict=True)),
            {**identity, "numbers of tasks": [total for total, _ in counts]},
            joint=joint,
        )


def _counts_of_workers(
    patterns: Sequence[str], workers: Workers, identity: Mapping[str, Any]
) -> tuple[dict[str, Any], list[list[Any]]]:
    """The identity with the numbers of files, and for each pattern every worker's numbers of tasks
    and rows, after comparing the identities.
    """
    identity = {**identity, "number of files": [len(record_files(p)) for p in patterns]}
    counts = [count_tasks(pattern, workers.share) for pattern in patterns]
    answers = workers.require_same_run(identity, counts=counts)
    return identity, [[answer["counts"][i] for answer in answers] for i in range(len(patterns))]


def _require_validation(counts: Sequence[Any], tasks: str | Path) -> None:
    """Raises `LimamlError` if no worker has validation tasks."""
    if not any(count[0] for count in counts):
        raise LimamlError(
            f"{tasks} has no validation rows: choose the settings on records that have some, and "
            "train with these settings here (limaml train --refit RUN, train(refit=...))"
        )


def _batch_size(options: TrainOptions, tasks: int, rows: int) -> int:
    """Tasks per batch; short tasks count as `MIN_ROWS` rows, because each costs time."""
    return options.batch_size or max(1, round(options.batch_rows / max(rows / tasks, MIN_ROWS)))


def _training_splits(
    tasks: str | Path, options: TrainOptions, task: str | None, encoder: FeatureEncoder
) -> tuple[str, ...]:
    """Names of the splits that are read in turn: the episodes, or the plain training records."""
    definition = Path(tasks) / (task or encoder.schema.default_task)
    episodes = episodes_in(definition) if options.use_episodes else ()
    default = support_range(TrainOptions().support_fraction)
    if episodes and support_range(options.support_fraction) != default:
        raise LimamlError(
            f"support_fraction {options.support_fraction} has no effect: {definition} holds "
            "episodes, which are split already; leave it out, or train without them "
            "(use_episodes=False, --no-episodes)"
        )
    return episodes or _PLAIN


def _training_dataset(
    patterns: Sequence[str],
    options: TrainOptions,
    encoder: FeatureEncoder,
    workers: Workers,
    batch_size: int,
    epoch: tf.Variable,
    batches: Sequence[int] | None,
) -> tf.data.Dataset:
    return task_dataset(
        patterns,
        encoder,
        batch_size,
        support_fraction=options.support_fraction,
        max_samples=options.max_samples,
        shuffle=True,
        seed=options.seed,
        epoch=epoch,
        by_rows=options.batch_size is None,
        share=workers.share,
        batches=batches,
    )


def _validation_dataset(
    pattern: str,
    options: TrainOptions,
    encoder: FeatureEncoder,
    workers: Workers,
    batch_size: int,
    batches: Sequence[int] | None,
) -> tf.data.Dataset:
    """The same tasks each time; `batches` are given if there are several replicas."""
    first = tf.Variable(0, trainable=False, dtype=tf.int64)
    return task_dataset(
        pattern,
        encoder,
        batch_size,
        max_samples=options.max_samples,
        by_rows=True,
        epoch=None if batches is None else first,
        share=workers.share,
        batches=batches,
    )


def _joint_records(
    tasks: str | Path,
    options: TrainOptions,
    task: str | None,
    encoder: FeatureEncoder,
    epoch: tf.Variable,
) -> JointRecords:
    return JointRecords(
        tasks,
        check_definitions(encoder.schema, task, str(options.model.joint_task)),
        encoder,
        epoch,
        support_fraction=options.support_fraction,
        max_samples=options.max_samples,
        seed=options.seed,
        episodes=options.use_episodes,
    )


class EpochNumber(keras.callbacks.Callback):
    """Passes the number of the epoch to the input pipeline."""

    def __init__(self, number: tf.Variable) -> None:
        super().__init__()
        self.number = number

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the number."""
        self.number.assign(epoch)
