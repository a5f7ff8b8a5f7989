"""Diagnoses how much personalisation can gain, before LiMAML is trained.

A plain network is trained on the training rows with all features, history features included. On
later rows, the diagnostic estimates how much tasks still differ
(`tfrec_limaml.diagnosis.random_intercept`), overall and for each category (a topic, a tab), and
measures how much AUC each task's history gains (`tfrec_limaml.diagnosis.history_gain`). The verdict
uses the second number: later rows of a task may resemble each other without any relation to its
history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.diagnosis.history_gain import HistoryGain, Rows, history_gain
from tfrec_limaml.diagnosis.random_intercept import (
    Deviation,
    group_deviation,
    oracle_gain,
    recalibrate,
    task_deviation,
)
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.models import TaskModel
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.folder import shard_pattern
from tfrec_limaml.tasks.parsing import encode_rows, parse_tasks, task_of_rows
from tfrec_limaml.tasks.record_files import read_records
from tfrec_limaml.wording import counted

Array = npt.NDArray[Any]

#: Gains in AUC from which adaptation is worth the effort, and below which it is not.
WORTH, SMALL = 0.005, 0.001
#: Maximum number of scored rows per task, and in total, that the likelihood uses.
ROWS_PER_TASK, MAX_ROWS = 40, 20_000
#: Categories with more values have too few rows per value.
MAX_VALUES = 200


@dataclasses.dataclass(frozen=True)
class Category:
    """The values of a category in the rows; a row with several values occurs once for each.

    Attributes:
        row: Index of the row.
        code: Integer code of the value.
    """

    row: Array
    code: Array


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Support and query rows ``[N]`` with their logits, tasks one after the other.

    Attributes:
        task: Integer codes.
        query: Whether a row is a query row, later than all support rows of its task.
        label: 0 or 1.
        logit: Logit of the baseline, which was trained on support rows only.
        categories: Categories by feature.
    """

    task: Array
    query: Array
    label: Array
    logit: Array
    categories: dict[str, Category]

    def sample(self) -> Array:
        """Marks a sample of the query rows, as a mask ``[N]``.

        It has at most `ROWS_PER_TASK` rows of a task and, by whole tasks, about `MAX_ROWS` rows.
        """
        number = np.flatnonzero(self.query)
        task = self.task[number]
        keep_mask = _position_in_task(task) < ROWS_PER_TASK
        share = min(1.0, MAX_ROWS / max(int(keep_mask.sum()), 1))
        keep_mask &= (np.random.default_rng(0).random(int(task.max()) + 1) < share)[task]
        mask = np.zeros(len(self.task), bool)
        mask[number[keep_mask]] = True
        return mask

    def calibrated(self) -> Rows:
        """The rows with recalibrated logits, separately for support and query rows.

        A change that all tasks share must not count as a difference between them.
        """
        offset = np.zeros(len(self.label))
        for part in (self.query, ~self.query):
            if part.any():
                offset[part] = recalibrate(self.label[part], self.logit[part])
        return Rows(self.label, offset, self.task, self.query)


def score_rows(model: TaskModel, files: Sequence[str], features: Sequence[Feature]) -> ScoredRows:
    """Scores the rows of split task records, un-adapted; without those of weight 0."""
    schema = model.encoder.schema

    def columns(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        tasks = parse_tasks(serialized, schema)
        task = task_of_rows(tasks)
        position = tf.range(tasks.splits[-1]) - tf.gather(tasks.first, task)
        logit = model.network(encode_rows(tasks, model.encoder), training=False)
        names = (record_format.LABEL, *(f.name for f in features))
        scored = {
            "task": task,
            "query": position >= tf.gather(tasks.query_start, task),
            "logit": tf.cast(logit, tf.float32),
            **{name: tasks.columns[name] for name in names},
        }
        counts = tasks.columns[record_format.WEIGHT] > 0
        return {name: tf.boolean_mask(values, counts) for name, values in scored.items()}

    function = tf.function(
        columns, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    parts, offset = [], 0
    for batch in read_records(files).batch(1024):
        part = {name: value.numpy() for name, value in function(batch).items()}
        part["task"] = part["task"] + offset
        offset += len(batch)
        parts.append(part)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _with_categories(rows, features)


def diagnose_definition(rows: ScoredRows, definition: str) -> dict[str, Any]:
    """Diagnoses one task definition.

    Args:
        rows: From `score_rows`.
        definition: Name of the task definition.

    Returns:
        ``tasks`` and ``rows`` (later ones), ``median_history``; ``sources``, a list with the task
        itself first and then every category: ``source``, the standard deviation between tasks in
        logits (``deviation`` with ``low`` and ``high``), the simulated gain in AUC of an
        ``oracle`` that knows every effect, and the measured one of effects estimated from each
        task's ``history`` (``history_low``, ``history_high``); and ``verdict``.
    """
    label, task = rows.label[rows.query], rows.task[rows.query]
    if len(np.unique(label)) < 2:
        raise LimamlError(
            f"task definition {definition!r}: all {len(label)} validation rows have the same "
            "label, so nothing can be estimated; choose other split dates"
        )
    earlier = rows.label[~rows.query]
    if len(np.unique(earlier)) < 2:
        raise LimamlError(
            f"task definition {definition!r}: the validation tasks have a history of "
            f"{counted(len(earlier), 'row')}{' of one label' if len(earlier) else ''}, from "
            "which nothing can be predicted; choose a later validation_start or a coarser "
            "definition"
        )
    confidence = 1 - 0.05 / (1 + len(rows.categories))  # corrects for the number of intervals
    sources = _sources(rows, confidence)
    tested = np.unique(task)
    history = np.bincount(rows.task[~rows.query], minlength=int(task.max()) + 1)[tested]
    return {
        "definition": definition,
        "tasks": len(tested),
        "rows": len(label),
        "median_history": float(np.median(history)),
        "sources": sources,
        "verdict": verdict(sources),
    }


def _sources(rows: ScoredRows, confidence: float) -> list[dict[str, Any]]:
    """The task itself, then every category on top of it; see `diagnose_definition`."""
    calibrated, sample = rows.calibrated(), rows.sample()
    label, offset, task = calibrated.label, calibrated.offset, calibrated.task
    between = task_deviation(label[sample], offset[sample], task[sample], confidence)
    gain = history_gain(calibrated, confidence=confidence)
    oracle = oracle_gain(offset[sample], task[sample], between.value)
    sources = [_source("task", between, oracle, gain)]
    with_task_effects = calibrated.with_effect(gain.effect)
    for name, category in rows.categories.items():
        pairs = np.stack([task[category.row], category.code])
        group = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
        in_sample = sample[category.row]
        row, code = category.row[in_sample], category.code[in_sample]
        deviation = group_deviation(
            label[row],
            offset[row],
            task[row],
            code,
            between.value,
            confidence,
            len(row) / int(sample.sum()),
        )
        oracle = oracle_gain(
            offset[row], task[row], between.value, group[in_sample], deviation.value
        )
        gain = history_gain(with_task_effects, category.row, group, confidence)
        sources.append(_source(f"task x {name}", deviation, oracle, gain))
    return sources


def verdict(sources: Sequence[dict[str, Any]]) -> str:
    """``"worth it"``, ``"small"``, ``"nothing left"``, or ``"cannot tell"`` with too few rows."""
    sure = max((s["history"] for s in sources if s["history_low"] > 0), default=0.0)
    if sure >= WORTH:
        return "worth it"
    if sure >= SMALL:
        return "small"
    highest = max(s["history_high"] for s in sources)
    return "cannot tell" if highest >= 2 * WORTH else "nothing left"


def categories(schema: Schema, definition: str) -> list[Feature]:
    """Categorical features that are not constant within tasks: tasks may prefer some values."""
    keys = schema.task_columns(definition)
    return [
        f for f in schema.all_features if f.categorical and f.role == "other" and f.name not in keys
    ]


def record_files(tasks: str | Path, definition: str, split: str) -> list[str]:
    """Files of one split; raises `LimamlError` if there are none."""
    files = sorted(map(str, (Path(tasks) / definition).glob(shard_pattern(split))))
    if not files:
        raise LimamlError(
            f"no {split} records of task definition {definition!r} in {tasks}; `limaml prepare` "
            "writes them"
        )
    return files


def _with_categories(rows: dict[str, Array], features: Sequence[Feature]) -> ScoredRows:
    categories = {}
    for feature in features:
        row, value = _values(rows[feature.name], feature.separator)
        code = np.unique(value, return_inverse=True)[1]
        if 1 < int(code.max()) + 1 <= MAX_VALUES:
            categories[feature.name] = Category(row, code)
    return ScoredRows(
        rows["task"],
        rows["query"],
        rows[record_format.LABEL],
        rows["logit"].astype(float),
        categories,
    )


def _values(column: Array, separator: str | None) -> tuple[Array, Array]:
    """Row numbers and values; a row with several values occurs once for each."""
    if separator is None:
        return np.arange(len(column)), column.astype("S") if column.dtype == object else column
    cells = [sorted(set(cell.split(separator.encode()))) for cell in column]
    return np.repeat(np.arange(len(cells)), [len(cell) for cell in cells]), np.array(
        [value for cell in cells for value in cell], "S"
    )


def _position_in_task(task: Array) -> Array:
    """Index of each row within its task; rows of a task are adjacent."""
    is_first = np.concatenate([[True], task[1:] != task[:-1]])
    starts = np.flatnonzero(is_first)
    return np.asarray(np.arange(len(task)) - starts[np.cumsum(is_first) - 1])


def _source(name: str, between: Deviation, oracle: float, gain: HistoryGain) -> dict[str, Any]:
    values = {
        "deviation": between.value,
        "low": between.low,
        "high": between.high,
        "oracle": oracle,
        "history": gain.value,
        "history_low": gain.low,
        "history_high": gain.high,
    }
    return {"source": name, **{key: round(float(value), 5) for key, value in values.items()}}
