"""Whether personalisation can still win anything: a diagnostic to run before training LiMAML.

A plain network learns the training rows with all features at hand, member history included. On
later rows, which it has not seen, the diagnostic estimates how much tasks still differ
(`tfrec_limaml.diagnosis.random_intercept`), overall and for each category (a topic, a tab), and how
much AUC an estimate from each task's history could win of that.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.diagnosis.random_intercept import (
    Deviation,
    auc_gains,
    group_deviation,
    recalibrate,
    task_deviation,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.models import TaskModel, Vanilla
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.folder import shard_pattern
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.parsing import encode_rows, parse_tasks

Array = npt.NDArray[Any]

#: A gain in AUC from here on is worth the effort; below the smaller one there is nothing to win.
WORTH, SMALL = 0.005, 0.001
#: Scored rows per task, and in all, that the likelihood looks at.
ROWS_PER_TASK, MOST_ROWS = 40, 20_000
#: Categories with more values than this say little about any one of them.
MOST_VALUES = 200


@dataclasses.dataclass(frozen=True)
class Category:
    """Which values of a category the query rows hold; a row with more than one value is there once
    for each.

    Attributes:
        row: Index of the query row.
        code: Integer code of the value.
        history: Support rows of the row's task with the same value.
    """

    row: Array
    code: Array
    history: Array


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Query rows ``[N]`` with their logits, and what came before them.

    Attributes:
        task: Integer codes.
        label: 0 or 1.
        logit: Of the baseline, out of sample.
        history: Support rows of the row's task.
        categories: By feature.
    """

    task: Array
    label: Array
    logit: Array
    history: Array
    categories: dict[str, Category]

    def sample(self) -> ScoredRows:
        """At most `ROWS_PER_TASK` rows of a task and, by whole tasks, about `MOST_ROWS` rows."""
        kept = _position_in_task(self.task) < ROWS_PER_TASK
        tasks = int(self.task.max()) + 1
        share = min(1.0, MOST_ROWS / max(int(kept.sum()), 1))
        kept &= (np.random.default_rng(0).random(tasks) < share)[self.task]
        categories = {}
        for name, category in self.categories.items():
            of_kept = kept[category.row]
            categories[name] = Category(
                (np.cumsum(kept) - 1)[category.row[of_kept]],
                category.code[of_kept],
                category.history[of_kept],
            )
        return ScoredRows(
            self.task[kept], self.label[kept], self.logit[kept], self.history[kept], categories
        )


def train_baseline(
    model: Vanilla,
    pattern: str | Sequence[str],
    validation: str | Sequence[str],
    epochs: int,
    seed: int,
) -> None:
    """Fits a vanilla model with early stopping on the validation rows."""
    data = task_dataset(pattern, model.encoder, 128, shuffle=True, seed=seed)
    held_out = task_dataset(validation, model.encoder, 512)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0))
    model.fit(data, validation_data=held_out, epochs=epochs, callbacks=[stopping], verbose=0)


def score_rows(model: TaskModel, files: Sequence[str], features: Sequence[Feature]) -> ScoredRows:
    """Scores the query rows of split task records, un-adapted, and counts what their support
    holds.
    """
    schema = model.encoder.schema

    def columns(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        tasks = parse_tasks(serialized, schema)
        task = tf.repeat(tf.range(tf.shape(tasks.counts)[0]), tasks.counts)
        position = tf.range(tasks.splits[-1]) - tf.gather(tasks.splits, task)
        logit = model.network(encode_rows(tasks, model.encoder), training=False)
        chosen = {
            name: tasks.columns[name] for name in (record_format.LABEL, *(f.name for f in features))
        }
        return {
            "task": task,
            "query": position >= tf.gather(tasks.query_start, task),
            "logit": tf.cast(logit, tf.float32),
            **chosen,
        }

    dataset = tf.data.TFRecordDataset(files, "GZIP" if files[0].endswith(".gz") else "").batch(1024)
    traced = tf.function(
        columns, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    parts, offset = [], 0
    for batch in dataset:
        part = {name: value.numpy() for name, value in traced(batch).items()}
        part["task"] = part["task"] + offset
        offset += len(batch)
        parts.append(part)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _with_history(rows, features)


def diagnose_definition(rows: ScoredRows, definition: str) -> dict[str, Any]:
    """The numbers of one task definition.

    Args:
        rows: From `score_rows`.
        definition: Its name.

    Returns:
        ``tasks``, ``rows``, ``median_history``; ``sources``, a list with the task itself first and
        then every category: ``source``, the standard deviation between tasks in logits
        (``deviation`` with ``low`` and ``high``), and the gains in AUC of an ``oracle``, from each
        task's ``history``, and from the history if the deviation were its upper bound
        (``at_most``); and ``verdict``.
    """
    if len(np.unique(rows.label)) < 2:
        raise LimamlError(
            f"task definition {definition!r}: all {len(rows.label)} validation rows have one "
            "label; nothing can be estimated"
        )
    rows = rows.sample()
    offset = recalibrate(rows.label, rows.logit)
    confidence = 1 - 0.05 / (
        1 + len(rows.categories)
    )  # as many chances to find something by accident
    sources = _sources(rows, offset, confidence)
    return {
        "definition": definition,
        "tasks": len(np.unique(rows.task)),
        "rows": len(rows.task),
        "median_history": float(np.median(rows.history[_position_in_task(rows.task) == 0])),
        "sources": sources,
        "verdict": verdict(sources),
    }


def _sources(rows: ScoredRows, offset: npt.NDArray[Any], confidence: float) -> list[dict[str, Any]]:
    """The task itself, then every category; see `diagnose_definition`.

    Args:
        rows: The rows.
        offset: Their recalibrated logits ``[N]``.
        confidence: Of the bounds.
    """
    between = task_deviation(rows.label, offset, rows.task, confidence)
    overall, at_most = (
        auc_gains(offset, rows.task, tau, rows.history) for tau in (between.value, between.high)
    )
    sources = [_source("task", between, overall, at_most[1])]
    for name, category in rows.categories.items():
        inside = group_deviation(
            rows.label[category.row],
            offset[category.row],
            rows.task[category.row],
            category.code,
            between.value,
            confidence,
            len(category.row) / len(rows.task),
        )
        gains, most = (
            _category_gains(rows, offset, category, between.value, tau)
            for tau in (inside.value, inside.high)
        )
        sources.append(_source(f"task x {name}", inside, gains, most[1]))
    return sources


def _category_gains(
    rows: ScoredRows,
    offset: npt.NDArray[Any],
    category: Category,
    between: float,
    inside: float,
) -> tuple[float, float]:
    """Gains in AUC of a category within tasks, whose deviations are `between` and `inside` them."""
    task = rows.task[category.row]
    pairs = np.stack([task, category.code])
    group = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
    return auc_gains(
        offset[category.row],
        task,
        between,
        rows.history[category.row],
        group,
        inside,
        category.history,
    )


def verdict(sources: Sequence[dict[str, Any]]) -> str:
    """``"worth it"``, ``"small"``, ``"nothing left"``, or ``"cannot tell"`` where too few rows
    leave it open.
    """
    sure = max((s["history"] for s in sources if s["low"] > 0), default=0.0)
    if sure >= WORTH:
        return "worth it"
    if sure >= SMALL:
        return "small"
    return "cannot tell" if max(s["at_most"] for s in sources) >= 2 * WORTH else "nothing left"


def categories(schema: Schema, definition: str) -> list[Feature]:
    """The features whose values tasks may like differently: categorical, and not fixed by the
    task.
    """
    keys = schema.task_columns(definition)
    return [
        f for f in schema.all_features if f.categorical and f.role == "other" and f.name not in keys
    ]


def record_files(tasks: str | Path, definition: str, split: str) -> list[str]:
    """Files of one split; raises `LimamlError` where there are none."""
    files = sorted(glob.glob(str(Path(tasks) / definition / shard_pattern(split))))
    if not files:
        raise LimamlError(
            f"no {split} records of task definition {definition!r} in {tasks}; `limaml prepare` "
            "writes them"
        )
    return files


def _with_history(rows: dict[str, Array], features: Sequence[Feature]) -> ScoredRows:
    query = rows["query"]
    tasks = int(rows["task"].max()) + 1
    number = np.cumsum(query) - 1
    categories = {}
    for feature in features:
        row, value = _values(rows[feature.name], feature.separator)
        code = np.unique(value, return_inverse=True)[1]
        values = int(code.max()) + 1
        if not 1 < values <= MOST_VALUES:
            continue
        pair, of_query = rows["task"][row] * values + code, query[row]
        before = np.bincount(pair[~of_query], minlength=tasks * values)
        categories[feature.name] = Category(
            number[row[of_query]], code[of_query], before[pair[of_query]]
        )
    support = np.bincount(rows["task"][~query], minlength=tasks)
    task = rows["task"][query]
    return ScoredRows(
        task,
        rows[record_format.LABEL][query],
        rows["logit"][query].astype(float),
        support[task],
        categories,
    )


def _values(column: Array, separator: str | None) -> tuple[Array, Array]:
    """Row numbers and values; a row with more than one value comes once for each."""
    if separator is None:
        return np.arange(len(column)), column.astype("S") if column.dtype == object else column
    cells = [sorted(set(cell.split(separator.encode()))) for cell in column]
    return np.repeat(np.arange(len(cells)), [len(cell) for cell in cells]), np.array(
        [value for cell in cells for value in cell], "S"
    )


def _position_in_task(task: Array) -> Array:
    """Index of each row within its task; rows of a task lie together."""
    new = np.concatenate([[True], task[1:] != task[:-1]])
    starts = np.flatnonzero(new)
    return np.asarray(np.arange(len(task)) - starts[np.cumsum(new) - 1])


def _source(
    name: str, between: Deviation, gains: tuple[float, float], at_most: float
) -> dict[str, Any]:
    values = {
        "deviation": between.value,
        "low": between.low,
        "high": between.high,
        "oracle": gains[0],
        "history": gains[1],
        "at_most": at_most,
    }
    return {"source": name, **{key: round(float(value), 5) for key, value in values.items()}}
