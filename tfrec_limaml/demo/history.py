"""Task records as plain rows, and each member's favourite kind of item."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Array, Integers
from tfrec_limaml.report.projection import favourite
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tensorflow_setup import import_tensorflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRows:
    """All rows of one split, task after task.

    Attributes:
        keys: Task key of each task, ``[T]``.
        splits: Rows of task t are ``splits[t]:splits[t + 1]``.
        columns: Name to values ``[R]``: raw features, ``label``, ``timestamp``.
    """

    keys: tuple[str, ...]
    splits: Integers
    columns: Mapping[str, Array]

    def rows_of(self, task: int) -> range:
        """Positions of a task's rows."""
        return range(int(self.splits[task]), int(self.splits[task + 1]))

    def row(self, position: int) -> dict[str, Any]:
        """One row as plain Python values."""
        return {name: _python_value(values[position]) for name, values in self.columns.items()}


def read_history(tasks: Path, schema: Schema, split: str) -> SplitRows:
    """Reads one split of the schema's first task definition."""
    import_tensorflow(keras=False)
    import tensorflow as tf

    from tfrec_limaml.tasks.parsing import parse_tasks
    from tfrec_limaml.tasks.record_files import read_records
    from tfrec_limaml.training.recipes import split_files

    serialized = list(read_records(split_files(tasks, None, split, schema)))
    parsed = parse_tasks(tf.stack(serialized), schema)
    columns = {name: value.numpy() for name, value in parsed.columns.items()}
    return SplitRows(
        keys=tuple(key.decode() for key in parsed.task_key.numpy()),
        splits=parsed.splits.numpy(),
        columns=columns,
    )


def kinds(row: Mapping[str, Any], feature: Feature) -> list[str]:
    """The values of a categorical feature in one row; more than one if it is multi-valued."""
    text = str(row[feature.name])
    values = text.split(feature.separator) if feature.separator else [text]
    return [value for value in values if value]


def likes(history: SplitRows, feature: Feature) -> list[str]:
    """Each task's most clicked kind, ``[T]``."""
    clicked = history.columns[record_format.LABEL] > 0.5
    values = history.columns[feature.name]
    result = []
    for task in range(len(history.keys)):
        clicked_values = (values[i] for i in history.rows_of(task) if clicked[i])
        result.append(
            favourite(
                kind
                for value in clicked_values
                for kind in kinds({feature.name: _python_value(value)}, feature)
            )
        )
    return result


def _python_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
