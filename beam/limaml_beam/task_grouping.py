"""Groups rows into tasks and keeps the most recent of each, without ever holding a heavy task whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam import columnar
from limaml_beam.columnar import ORDER, TASK, TIME, Integers, TableCoder
from limaml_beam.options import TaskSettings
from tfrec_limaml.schema import Schema

TRAIN, VALIDATION, TEST = 0, 1, 2
_SLACK_ROWS = 50_000  # rows that an accumulator gathers before it is trimmed again


def segments(times: npt.NDArray[np.int64], settings: TaskSettings) -> Integers:
    """0 for train rows, 1 for validation rows, 2 for test rows."""
    return (times >= settings.validation_start).astype(np.int64) + (times >= settings.test_start)


def latest(table: pa.Table, settings: TaskSettings) -> pa.Table:
    """Rows sorted by task, time and content; of each task the most recent of every segment.

    Train rows: `max_samples`; validation and test rows: `max_query`, which is at least as many.
    """
    codes, keys = columnar.codes_of(table[TASK])
    rank_of_key = np.empty(len(keys), np.int64)
    rank_of_key[pc.sort_indices(keys).to_numpy()] = np.arange(len(keys))
    tasks, times = rank_of_key[codes], columnar.to_numpy(table[TIME])
    order = np.lexsort((columnar.to_numpy(table[ORDER]), times, tasks))
    segment = segments(times, settings)[order]
    group = tasks[order] * 3 + segment
    ends = np.flatnonzero(np.append(np.diff(group) != 0, True)) + 1
    from_end = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(group))
    cap = np.where(segment == TRAIN, settings.max_samples, settings.max_query)
    return table.take(pa.array(order[from_end <= cap]))


class _TablesCoder(beam.coders.Coder):
    """An accumulator of `LatestPerTask` as one table (empty bytes for none)."""

    def encode(self, value: list[pa.Table]) -> bytes:
        return TableCoder().encode(pa.concat_tables(value)) if value else b""

    def decode(self, encoded: bytes) -> list[pa.Table]:
        return [TableCoder().decode(encoded)] if encoded else []


class LatestPerTask(beam.CombineFn):
    """Combines blocks of one shard; an accumulator holds at most the rows to keep plus a fixed slack."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    def create_accumulator(self) -> list[pa.Table]:
        """No rows."""
        return []

    def add_input(self, accumulator: list[pa.Table], block: pa.Table) -> list[pa.Table]:
        """Adds a block."""
        return self._trim([*accumulator, block])

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        """Adds accumulators up, one at a time."""
        merged: list[pa.Table] = []
        for accumulator in accumulators:
            merged = self._trim([*merged, *accumulator])
        return merged

    def compact(self, accumulator: list[pa.Table]) -> list[pa.Table]:
        """Trims before the accumulator travels."""
        return [latest(pa.concat_tables(accumulator), self.settings)] if accumulator else []

    def extract_output(self, accumulator: list[pa.Table]) -> pa.Table:
        """The rows to keep, sorted by task and time."""
        return latest(pa.concat_tables(accumulator), self.settings)

    def get_accumulator_coder(self) -> beam.coders.Coder:
        """Tables, not pickles."""
        return _TablesCoder()

    def _trim(self, tables: list[pa.Table]) -> list[pa.Table]:
        # The first table is what the last trimming left; later ones came since. Trimming when they outgrow it keeps the
        # total work proportional to the rows.
        gathered = sum(t.num_rows for t in tables[1:])
        if gathered > max(_SLACK_ROWS, tables[0].num_rows if tables else 0):
            return [latest(pa.concat_tables(tables), self.settings)]
        return tables


def deal(block: pa.Table, schema: Schema, definition: str, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Adds the task key and splits a block by the shard that the task belongs to."""
    keyed = block.append_column(TASK, columnar.join_keys(block, schema.task_columns(definition)))
    needed = {columnar.key_column(name) for name in schema.tables.values()}  # for the join in the writer
    keyed = keyed.drop_columns([n for n in keyed.column_names if n.startswith(columnar.key_column("")) and n not in needed])
    yield from columnar.partition(keyed, columnar.stable_hash(keyed[TASK]), shards)


class GroupTasks(beam.PTransform):
    """Blocks -> (shard, table of the rows to keep, sorted by task and time) for one task definition."""

    def __init__(self, schema: Schema, settings: TaskSettings, definition: str) -> None:
        super().__init__()
        self.schema, self.settings, self.definition = schema, settings, definition

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """Deals rows to shards, then combines."""
        return (
            blocks
            | "deal" >> beam.FlatMap(deal, self.schema, self.definition, self.settings.shards).with_output_types(tuple[int, pa.Table])
            | "keep latest" >> beam.CombinePerKey(LatestPerTask(self.settings)).with_output_types(tuple[int, pa.Table])
        )
