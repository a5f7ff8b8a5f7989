"""Groups rows into tasks and keeps the most recent rows of each.

A large task is never held completely. Rows of a shard are combined twice: in each block before the
shuffle, and block by block after it. Beam's combiner lifting would collect the rows of 1,000 shards
in every worker's memory without saving more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER, SEGMENT, TASK, TIME
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.schema import Schema

TRAIN, VALIDATION, TEST = 0, 1, 2
_SLACK_ROWS = 50_000  # rows that are collected before they are trimmed again


def segments(table: pa.Table, settings: TaskSettings) -> Integers:
    """The segment of each row ``[N]``: 0 for train, 1 for validation, 2 for test.

    By date, unless the table has a column with the segments.
    """
    if SEGMENT in table.column_names:
        return columnar.to_numpy(table[SEGMENT])
    times = columnar.to_numpy(table[TIME])
    return (times >= settings.validation_start).astype(np.int64) + (times >= settings.test_start)


def latest(table: pa.Table, settings: TaskSettings) -> pa.Table:
    """The most recent rows of each task and segment, sorted by task, segment, time and content.

    If rows have their own segment, the segments of a task may overlap in time: a video can have
    train rows of one member that are later than test rows of another. Train rows: `max_samples`;
    validation and test rows: `max_query`, which is at least as many.
    """
    codes, keys = columnar.codes_of(table[TASK])
    rank_of_key = np.empty(len(keys), np.int64)
    rank_of_key[pc.sort_indices(keys).to_numpy()] = np.arange(len(keys))
    tasks, times = rank_of_key[codes], columnar.to_numpy(table[TIME])
    segment = segments(table, settings)
    order = np.lexsort((columnar.to_numpy(table[ORDER]), times, segment, tasks))
    segment = segment[order]
    group = tasks[order] * 3 + segment
    ends = np.flatnonzero(np.append(np.diff(group) != 0, True)) + 1
    from_end = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(group))
    cap = np.where(segment == TRAIN, settings.max_samples, settings.max_query)
    return table.take(pa.array(order[from_end <= cap]))


def latest_of(blocks: Iterable[pa.Table], settings: TaskSettings) -> pa.Table:
    """`latest` of many blocks, one after another.

    Holds the rows to keep and at most as many again, or a fixed slack.
    """
    tables: list[pa.Table] = []
    for block in blocks:
        tables.append(block)
        # The first table is the result of the last trimming; the others came after it. Trimming
        # when they outgrow it keeps the total work proportional to the rows.
        if sum(t.num_rows for t in tables[1:]) > max(_SLACK_ROWS, tables[0].num_rows):
            tables = [latest(pa.concat_tables(tables), settings)]
    return latest(pa.concat_tables(tables), settings)


def keyed(block: pa.Table, schema: Schema, definition: str, definitions: Sequence[str]) -> pa.Table:
    """Replaces the key columns of a block by its task keys under `definition`.

    Task keys under those of `definitions` that are stored beside it are added. Key columns that
    joins need stay.
    """
    block = block.append_column(TASK, columnar.join_keys(block, schema.task_columns(definition)))
    for name in schema.other_definitions(definition, definitions):
        keys = columnar.join_keys(block, schema.task_columns(name))
        block = block.append_column(columnar.other_key_column(name), keys)
    needed = {columnar.key_column(name) for name in schema.tables.values()}
    prefix = columnar.key_column("")
    return block.drop_columns(
        [n for n in block.column_names if n.startswith(prefix) and n not in needed]
    )


class SplitByShard(beam.DoFn):
    """Blocks -> (shard that a task belongs to, packed rows with their task key)."""

    def __init__(
        self, schema: Schema, settings: TaskSettings, definition: str, shuffle: Shuffle
    ) -> None:
        self.schema, self.settings = schema, settings
        self.definition, self.shuffle = definition, shuffle

    def process(self, block: pa.Table) -> Iterator[tuple[int, bytes]]:
        """Drops rows that this block alone shows to be too old, and splits the rest by shard."""
        table = keyed(block, self.schema, self.definition, self.settings.definitions)
        codes, _ = columnar.codes_of(table[TASK])
        if len(codes) and np.bincount(codes).max() > self.settings.max_samples:
            table = latest(table, self.settings)
        return self.shuffle.split(table, columnar.stable_hash(table[TASK]), self.settings.shards)


class KeepLatest(beam.DoFn):
    """(shard, packed blocks) -> (shard, table of the rows to keep, sorted by task and time)."""

    def __init__(self, settings: TaskSettings, shuffle: Shuffle) -> None:
        self.settings, self.shuffle = settings, shuffle

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, pa.Table]]:
        """Takes one block after another."""
        yield element[0], latest_of(map(self.shuffle.unpack, element[1]), self.settings)


class GroupTasks(beam.PTransform):
    """Blocks -> (shard, table of the rows to keep, sorted by task and time) for one task
    definition.
    """

    def __init__(
        self, schema: Schema, settings: TaskSettings, definition: str, shuffle: Shuffle
    ) -> None:
        super().__init__()
        self.schema, self.settings, self.definition, self.shuffle = (
            schema,
            settings,
            definition,
            shuffle,
        )

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """Splits rows by shard, then keeps the latest of each task."""
        return (
            blocks
            | "split by shard"
            >> beam.ParDo(
                SplitByShard(self.schema, self.settings, self.definition, self.shuffle)
            ).with_output_types(tuple[int, bytes])
            | "same shard together" >> beam.GroupByKey()
            | "keep latest"
            >> beam.ParDo(KeepLatest(self.settings, self.shuffle)).with_output_types(
                tuple[int, pa.Table]
            )
        )
