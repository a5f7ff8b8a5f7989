"""Records of two task definitions, neither of which refines the other, for one model.

A row of a user's record names its video, and a row of a video's record its user. `Sides` numbers
the tasks of both, and `Side` adds the further features of `JointLiMAML` to a batch of one side's
tasks: the side, and the row of each other task in the table of offsets.

`SplitTimes` split records by time: from its split time on, a row is a query row in the records of
both definitions. A query row, or a later row, is therefore never a support row of the other side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.arrays import Integers
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import OTHER_ROW, SIDE, Features
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import Tasks, rows_of, task_of_rows
from tfrec_limaml.tasks.record_files import read_records, record_files

#: A split time after all rows.
NEVER = np.iinfo(np.int64).max


class TaskTimes(NamedTuple):
    """The tasks of some records.

    Attributes:
        keys: Task keys ``[T]``.
        times: Milliseconds of all rows, one task after another.
        counts: Rows of each task ``[T]``.
    """

    keys: npt.NDArray[np.object_]
    times: Integers
    counts: Integers

    @classmethod
    def read(cls, pattern: str) -> TaskTimes:
        """Reads the matching records."""

        @tf.autograph.experimental.do_not_convert
        def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            context, ragged, _ = tf.io.parse_sequence_example(
                serialized,
                {record_format.TASK_KEY: tf.io.FixedLenFeature([], tf.string)},
                {record_format.TIMESTAMP: tf.io.RaggedFeature(tf.int64)},
            )
            times = ragged[record_format.TIMESTAMP]
            return context[record_format.TASK_KEY], times.flat_values, times.row_lengths()

        chunks = read_records(record_files(pattern)).batch(1024).map(parse).as_numpy_iterator()
        keys, times, counts = zip(*chunks, strict=True)
        return cls(np.concatenate(keys), np.concatenate(times), np.concatenate(counts))


class Sides:
    """The tasks of both definitions, numbered: rows of the table of offsets, from 1 on.

    Args:
        definitions: The two task definitions; the first is that of the member of a ranking request.
        keys: Task keys of both definitions.

    Attributes:
        rows: Number of rows of the table, including row 0.
    """

    def __init__(self, definitions: Sequence[str], keys: Sequence[npt.NDArray[np.object_]]) -> None:
        first, second = definitions
        self.definitions = first, second
        self.prefix = joint_key_prefix(second).encode()
        all_keys = [*keys[0].tolist(), *(self.prefix + key for key in keys[1].tolist())]
        self.rows = 1 + len(all_keys)
        self.lookup = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(all_keys, tf.string), tf.range(1, self.rows, dtype=tf.int64)
            ),
            default_value=0,
        )

    @property
    def pair(self) -> tuple[Side, Side]:
        """The side of each definition."""
        return Side(self, 0), Side(self, 1)


class SplitTimes(NamedTuple):
    """The times from which on rows are query rows.

    Attributes:
        moments: Milliseconds by table row, int64 ``[R]``; only those of the first definition's
            tasks are used, and that of row 0 for unknown tasks.
        ordered: Whether all of them are equal: records then already have support rows before query
            rows.
    """

    moments: tf.Variable
    ordered: bool


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a model of two definitions.

    Attributes:
        sides: Both sides.
        number: 0 for the first definition, 1 for the second.
    """

    sides: Sides
    number: int

    @property
    def definition(self) -> str:
        """This side's definition."""
        return self.sides.definitions[self.number]

    @property
    def other(self) -> str:
        """The other side's definition."""
        return self.sides.definitions[1 - self.number]

    def own_rows(self, task_key: tf.Tensor) -> tf.Tensor:
        """Table rows of this side's tasks, int32; 0 for unknown ones."""
        return self._rows(task_key, self.number)

    def other_rows(self, tasks: Tasks) -> tf.Tensor:
        """Table row of each row's other task, int32 ``[R]``."""
        return self._rows(tasks.columns[record_format.key_list(self.other)], 1 - self.number)

    def features(self, tasks: Tasks) -> Features:
        """The further features of `JointLiMAML` for each row ``[R]``."""
        other = self.other_rows(tasks)
        return {SIDE: tf.fill(tf.shape(other), self.number), OTHER_ROW: other}

    def split(self, tasks: Tasks, split_times: SplitTimes) -> Tasks:
        """The tasks with their support rows first, in time order, and then their query rows."""
        moments = split_times.moments.read_value()
        task = task_of_rows(tasks)
        first_rows = (
            rows_of(self.own_rows(tasks.task_key), task)
            if self.number == 0
            else self.other_rows(tasks)
        )
        is_query = tasks.columns[record_format.TIMESTAMP] >= rows_of(moments, first_rows)
        query = tf.math.segment_sum(tf.cast(is_query, tf.int64), task)
        tasks = tasks._replace(query_start=tasks.counts - query)
        if split_times.ordered:
            return tasks
        order = tf.argsort(2 * task + tf.cast(is_query, task.dtype), stable=True)
        columns = {name: rows_of(value, order) for name, value in tasks.columns.items()}
        return tasks._replace(columns=columns)

    def _rows(self, keys: tf.Tensor, number: int) -> tf.Tensor:
        stored = keys if number == 0 else tf.strings.join([self.sides.prefix, keys])
        return tf.cast(self.sides.lookup.lookup(stored), tf.int32)


def check_definitions(schema: Schema, first: str | None, second: str) -> tuple[str, str]:
    """The two definitions of a joint model; raises `LimamlError` if one refines the other."""
    first = first or schema.default_task
    if not schema.other_definitions(first, [second]):
        raise LimamlError(
            f"the task definitions {first!r} {list(schema.task_columns(first))} and {second!r} "
            f"{list(schema.task_columns(second))} cannot be two sides, because one refines the "
            f"other; use --nested-task for the finer one"
        )
    return first, second
