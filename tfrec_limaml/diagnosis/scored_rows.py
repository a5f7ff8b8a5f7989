"""Rows of task records with the logits of a plain network, and their categories."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrec_limaml.arrays import Array
from tfrec_limaml.diagnosis.history_gain import Rows
from tfrec_limaml.diagnosis.random_intercept import recalibrate
from tfrec_limaml.models import TaskModel
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import encode_rows, parse_tasks, task_of_rows
from tfrec_limaml.tasks.record_files import read_records

#: Maximum number of scored rows per task, and in total, that the likelihood uses.
ROWS_PER_TASK, MAX_ROWS = 40, 20_000
#: Categories with more values have too few rows per value.
MAX_VALUES = 200


@dataclasses.dataclass(frozen=True)
class Category:
    """The values of a category in the rows; a row with several values occurs once for each.

    Attributes:
        row: Index of each value's row, ``[M]``.
        code: Integer code of each value, ``[M]``.
    """

    row: Array
    code: Array


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """Support and query rows ``[N]`` with their logits, tasks one after the other.

    Attributes:
        task: Integer code of each row's task.
        query: Whether a row is a query row, later than all support rows of its task.
        label: 0 or 1.
        logit: Logit of the baseline, which was trained on support rows only.
        categories: The values of each categorical feature, by its name.
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
