"""Adds history features to the rows of a job, as Beam steps; see `key_history`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml_beam.build_tasks import episodes
from limaml_beam.build_tasks.grouping import TRAIN, segments
from limaml_beam.build_tasks.key_history import KeyHistory, moments_of, one_row_per_token, stem
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from limaml_beam.io import files, progress
from limaml_beam.io.staged_output import write_file
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import (
    EPISODES,
    LABEL,
    MOMENT,
    PARTITION,
    ROW,
    SEGMENT,
    TIME,
    key_column,
)
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.schema import HISTORY_VALUES, History, Schema
from tfrec_limaml.tasks import folder

DIRECTORY = folder.HISTORY
AS_OF = "event_timestamp"  # column of the online copy: the time at which its values are frozen
ONLINE = "online"
_TIME_COLUMNS = (SEGMENT, MOMENT, EPISODES)  # columns with the times that a row's history ends at


class _SplitByKey(beam.DoFn):
    """(partition, block) -> (history and partition, packed narrow rows with their origin)."""

    def __init__(self, schema: Schema, partitions: int, shuffle: Shuffle) -> None:
        self.schema, self.partitions, self.shuffle = schema, partitions, shuffle

    def process(self, element: tuple[int, pa.Table]) -> Iterator[tuple[int, bytes]]:
        partition, block = element
        rows = pa.array(np.arange(block.num_rows, dtype=np.int32))
        origins = pa.array(np.full(block.num_rows, partition, np.int32))
        for index, history in enumerate(self.schema.history):
            columns = {key_column(name): block[key_column(name)] for name in history.keys}
            columns |= {name: block[name] for name in _TIME_COLUMNS if name in block.column_names}
            columns |= {TIME: block[TIME], LABEL: block[LABEL]}
            narrow = pa.table({**columns, PARTITION: origins, ROW: rows})
            narrow = one_row_per_token(narrow, self.schema, history)
            hashes = columnar.stable_hash(columnar.join_keys(narrow, history.keys))
            for part, packed in self.shuffle.split(narrow, hashes, self.partitions):
                yield index * self.partitions + part, packed


class _Compute(beam.DoFn):
    """All rows of some keys -> (partition, packed values by row).

    The tagged output ``online`` has the keys' values, frozen at the split.
    """

    def __init__(self, schema: Schema, settings: TaskSettings, shuffle: Shuffle) -> None:
        self.schema, self.settings, self.shuffle = schema, settings, shuffle

    def process(self, element: tuple[int, Iterable[bytes]], summary: SplitSummary) -> Iterator[Any]:
        index, part = divmod(element[0], self.settings.partitions)
        history, prior = self.schema.history[index], summary.prior(self.settings)
        table = self.shuffle.unpack_all(element[1]).combine_chunks()
        progress.advance("history features", table.num_rows)
        codes, _ = columnar.codes_of(columnar.join_keys(table, history.keys))
        times = columnar.to_numpy(table[TIME])
        key_history = KeyHistory.from_rows(
            codes, times, columnar.to_numpy(table[LABEL]).astype(np.float64)
        )

        values = key_history.as_of(
            codes, moments_of(table, self.settings), prior, history.smoothing
        )
        columns = _value_columns(history, values)
        for episode in range(self.settings.episodes):
            frozen = self._frozen(
                table, key_history, values, codes, episode, (prior, history.smoothing)
            )
            columns |= {
                episodes.frozen_column(name, episode): column
                for name, column in _value_columns(history, frozen).items()
            }
        origins = columnar.to_numpy(table[PARTITION]).astype(np.uint64)
        yield from self.shuffle.split(
            pa.table({**columns, ROW: table[ROW]}), origins, self.settings.partitions
        )

        first = np.unique(codes, return_index=True)[1]
        end = np.full(len(first), summary.history_end(self.settings))
        at_end = key_history.as_of(np.arange(len(first)), end, prior, history.smoothing)
        keys = {name: table[key_column(name)].take(pa.array(first)) for name in history.keys}
        as_of = pa.array(end, pa.timestamp("ms", tz="UTC"))
        online = pa.table({**keys, **_value_columns(history, at_end), AS_OF: as_of})
        yield beam.pvalue.TaggedOutput(
            ONLINE, (stem(history), part, online.filter(pa.array(at_end[1] > 0)))
        )

    def _frozen(
        self,
        table: pa.Table,
        key_history: KeyHistory,
        values: tuple[Any, ...],
        codes: Integers,
        episode: int,
        prior_and_smoothing: tuple[float, float],
    ) -> tuple[Any, ...]:
        """`values` as an episode's rows see them.

        Those of training rows from the split time on are frozen at the split time.
        """
        split_time = episodes.split_times_of(table)[:, episode]
        query = (segments(table, self.settings) == TRAIN) & (
            columnar.to_numpy(table[TIME]) >= split_time
        )
        at_split_time = key_history.as_of(codes[query], split_time[query], *prior_and_smoothing)
        frozen = tuple(np.array(value) for value in values)
        for value, other in zip(frozen, at_split_time, strict=True):
            value[query] = other
        return frozen


def _value_columns(history: History, values: tuple[Any, ...]) -> dict[str, pa.Array]:
    by_kind = dict(zip(HISTORY_VALUES, values, strict=True))
    return {name: pa.array(by_kind[value], pa.float32()) for value, name in history.names().items()}


class _Join(beam.DoFn):
    """(partition, its packed block and all its packed values) -> the block with its history.

    A row with several values of a multi-valued key gets their mean.
    """

    def __init__(self, shuffle: Shuffle) -> None:
        self.shuffle = shuffle

    def process(self, element: tuple[int, dict[str, Iterable[bytes]]]) -> Iterator[pa.Table]:
        (block,) = map(self.shuffle.unpack, element[1]["blocks"])
        sums: dict[str, Any] = {}
        counts: dict[str, Any] = {}
        for values in map(self.shuffle.unpack, element[1]["values"]):
            rows = columnar.to_numpy(values[ROW])
            row_counts = np.bincount(rows, minlength=block.num_rows)
            for name in values.column_names:
                if name != ROW:
                    total = np.bincount(rows, columnar.to_numpy(values[name]), block.num_rows)
                    sums[name] = sums.get(name, 0.0) + total
                    counts[name] = counts.get(name, 0.0) + row_counts
        # Values arrive in any order, and the blocks of one run must have one order of columns.
        for name in sorted(sums):
            mean = (sums[name] / counts[name]).astype(np.float32)
            block = block.append_column(name, pa.array(mean))
        yield block


def write_online(element: tuple[str, int, pa.Table], directory: str, partitions: int) -> None:
    """Writes one part of an online copy: ``<directory>/history/<keys>.parquet/part-...``."""
    name, part, table = element
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    path = files.join(
        directory, DIRECTORY, f"{name}.parquet", f"part-{part:05d}-of-{partitions:05d}.parquet"
    )
    write_file(path, bytes(sink.getvalue()))


class AddHistory(beam.PTransform):
    """(partition, block) -> ``{"blocks": blocks with history features, "online": (file stem, part,
    values frozen at the split)}``.

    All rows of one key go to one worker, as a few numbers each (about 40 bytes); the wide rows stay
    where they are and get their values back by row number.
    """

    def __init__(
        self, schema: Schema, settings: TaskSettings, summary: Any, shuffle: Shuffle
    ) -> None:
        super().__init__()
        self.schema, self.settings, self.summary, self.shuffle = schema, settings, summary, shuffle

    def expand(self, partitions: beam.PCollection) -> dict[str, Any]:
        """Splits by key, computes, joins back."""
        computed = (
            partitions
            | "split by key"
            >> beam.ParDo(
                _SplitByKey(self.schema, self.settings.partitions, self.shuffle)
            ).with_output_types(tuple[int, bytes])
            | "same key together" >> beam.GroupByKey()
            | "compute"
            >> beam.ParDo(
                _Compute(self.schema, self.settings, self.shuffle),
                beam.pvalue.AsSingleton(self.summary),
            )
            .with_outputs(ONLINE, main="values")
            .with_output_types(tuple[int, bytes])
        )
        packed = partitions | "pack rows" >> beam.MapTuple(
            lambda partition, block: (partition, self.shuffle.pack(block))
        ).with_output_types(tuple[int, bytes])
        blocks = (
            {"blocks": packed, "values": computed.values}
            | "back to the rows" >> beam.CoGroupByKey()
            | "join" >> beam.ParDo(_Join(self.shuffle)).with_output_types(pa.Table)
        )
        return {"blocks": blocks, ONLINE: computed[ONLINE]}
