"""Training on two task definitions, neither of which refines the other.

Batches of the two definitions take turns. In each, the offsets of the batch's tasks are adapted
inside the step; those of the other side come from a table. The table is recomputed before each
epoch, with the current weights: both sides are adapted on their support rows in turns, each given
the other's latest offsets, starting from zero.

Each epoch has split times, the same for both definitions, and the table is computed from rows
before them. An offset that scores a query row therefore does not depend on that row's label or,
with splits by date, on any later row. There are two approximations: the table's weights are up to
an epoch old, and no gradient flows through it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.models import JointLiMAML
from tfrec_limaml.tasks.batch_sizes import SCORED_TASKS
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.folder import episodes_in
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.sides import NEVER, Side, Sides, SplitTimes, TaskTimes
from tfrec_limaml.tasks.support_fraction import support_range
from tfrec_limaml.training.offset_table import OffsetTable, RefreshTable
from tfrec_limaml.training.recipes import split_pattern


def fill_table(
    model: JointLiMAML, tasks: str | Path, split: str, max_samples: int | None = None
) -> Sides:
    """Computes a model's table from all rows of a split.

    Args:
        model: A trained model.
        tasks: Folder written by ``limaml prepare``.
        split: ``"train"``, or ``"recent"`` as the embedding job reads it.
        max_samples: See `task_dataset`.

    Returns:
        The tasks of both definitions.
    """
    patterns = _patterns(tasks, model.meta_block.definitions, split, model.encoder)
    sides = Sides(model.meta_block.definitions, [TaskTimes.read(p).keys for p in patterns])
    records = _Records(tasks, model.encoder, sides, max_samples)
    OffsetTable(model, sides).make(records.all_support(split))
    return sides


@dataclasses.dataclass(frozen=True)
class _Records:
    """The records of both definitions.

    Attributes:
        tasks: Folder written by ``limaml prepare``.
        encoder: Encodes the features.
        sides: The tasks.
        max_samples: See `task_dataset`.
    """

    tasks: str | Path
    encoder: FeatureEncoder
    sides: Sides
    max_samples: int | None

    def all_support(self, split: str) -> list[tf.data.Dataset]:
        """Batches for a table of all rows of a split."""
        moments = tf.Variable(tf.fill([self.sides.rows], tf.constant(NEVER, tf.int64)))
        split_times = SplitTimes(moments, ordered=True)
        patterns = _patterns(self.tasks, self.sides.definitions, split, self.encoder)
        return [
            self.table_batches(side, pattern, split_times=split_times)
            for side, pattern in zip(self.sides.pair, patterns, strict=True)
        ]

    def table_batches(
        self, side: Side, pattern: str | Sequence[str], **options: Any
    ) -> tf.data.Dataset:
        """Batches of a side's tasks, with their keys."""
        return task_dataset(
            pattern,
            self.encoder,
            SCORED_TASKS,
            max_samples=self.max_samples,
            with_keys=True,
            in_order=False,
            by_rows=True,
            side=side,
            **options,
        )


def _patterns(
    tasks: str | Path, definitions: Sequence[str], split: str, encoder: FeatureEncoder
) -> list[str]:
    return [split_pattern(tasks, name, split, encoder.schema) for name in definitions]


class JointRecords:
    """The records of both definitions that a training run reads.

    Args:
        tasks: Folder written by ``limaml prepare --task FIRST,SECOND``.
        definitions: The two task definitions.
        encoder: Encodes the features.
        epoch: Number of the epoch, kept up to date by the caller.
        support_fraction, max_samples, seed: See `TrainOptions`.
        episodes: Whether to read episodes, if there are any with one split time for all tasks.

    Attributes:
        side: The side of the first definition, which validation tasks belong to.
    """

    def __init__(
        self,
        tasks: str | Path,
        definitions: tuple[str, str],
        encoder: FeatureEncoder,
        epoch: tf.Variable,
        *,
        support_fraction: float | tuple[float, float],
        max_samples: int | None,
        seed: int,
        episodes: bool,
    ) -> None:
        self._epoch = epoch
        train = _patterns(tasks, definitions, "train", encoder)
        task_times = [TaskTimes.read(pattern) for pattern in train]
        sides = Sides(definitions, [times.keys for times in task_times])
        split = encoder.schema.split
        by_date = split is None or split.per_task is None
        share = support_range(support_fraction)
        self._sampler = _SplitTimeSampler(task_times[0], share, seed, by_date)
        moments = tf.Variable(tf.fill([sides.rows], tf.constant(NEVER, tf.int64)))
        self._split_times: SplitTimes | None = SplitTimes(moments, by_date)
        self.patterns = [[pattern] for pattern in train]
        common = min(len(episodes_in(Path(tasks) / name)) for name in definitions)
        if episodes and by_date and common:
            self._split_times = None
            self.patterns = [
                [split_pattern(tasks, name, f"episode-{n}", encoder.schema) for n in range(common)]
                for name in definitions
            ]
        self._sides = sides
        self.side = sides.pair[0]
        self._records = _Records(tasks, encoder, sides, max_samples)
        self._fill_validation_table: Callable[[], None] | None = None

    def training(self, sizes: Sequence[int], by_rows: bool, seed: int) -> tf.data.Dataset:
        """Training batches of both definitions in turns, of `sizes` tasks on average."""
        datasets = [
            task_dataset(
                patterns,
                self._records.encoder,
                size,
                support_fraction=1.0,
                max_samples=self._records.max_samples,
                shuffle=True,
                seed=seed,
                epoch=self._epoch,
                by_rows=by_rows,
                side=side,
                split_times=self._split_times,
            )
            for side, patterns, size in zip(self._sides.pair, self.patterns, sizes, strict=True)
        ]
        turns = tf.data.Dataset.range(2).repeat()
        return tf.data.Dataset.choose_from_datasets(datasets, turns, stop_on_empty_dataset=False)

    def callback(self, model: JointLiMAML) -> keras.callbacks.Callback:
        """A callback that keeps the table up to date; must come after those that change weights."""
        table = OffsetTable(model, self._sides)
        all_rows = self._records.all_support("train")
        before_split_times = [
            self._records.table_batches(
                side, patterns, epoch=self._epoch, split_times=self._split_times
            )
            for side, patterns in zip(self._sides.pair, self.patterns, strict=True)
        ]

        def begin_epoch() -> None:
            self.draw_split_times()
            table.make(before_split_times)

        self._fill_validation_table = functools.partial(table.make, all_rows)
        return RefreshTable(begin_epoch, self._fill_validation_table)

    def fill_validation_table(self) -> None:
        """Computes the table from all training rows, to score validation tasks."""
        if self._fill_validation_table is not None:
            self._fill_validation_table()

    def draw_split_times(self) -> None:
        """Draws the split times of the epoch."""
        if self._split_times is not None:
            self._split_times.moments.assign(
                self._sampler.moments(int(self._epoch), self._sides.rows)
            )


@dataclasses.dataclass(frozen=True)
class _SplitTimeSampler:
    """Draws each epoch's split times, as a function of seed and epoch.

    Attributes:
        tasks: The first definition's training tasks.
        share: Range of the share of rows before the split time.
        seed: Seed of the draws.
        by_date: Whether all tasks have one split time; otherwise each has one, at a share of its
            rows.
    """

    tasks: TaskTimes
    share: tuple[float, float]
    seed: int
    by_date: bool

    def moments(self, epoch: int, rows: int) -> Any:
        """See `SplitTimes.moments`."""
        draw = np.random.default_rng((self.seed, epoch))
        times, counts = self.tasks.times, self.tasks.counts
        if self.by_date:
            moment = np.quantile(times, draw.uniform(*self.share), method="higher")
            return np.full(rows, moment, np.int64)
        shares = draw.uniform(*self.share, len(counts))
        positions = np.minimum(np.ceil(shares * counts).astype(np.int64), counts - 1)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        moments = np.full(rows, NEVER, np.int64)
        moments[1 : 1 + len(counts)] = times[starts + positions]
        return moments
