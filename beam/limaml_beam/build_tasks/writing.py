"""Writes the task records of a shard: train, validation, test and recent files, and episodes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from limaml_beam.build_tasks import episodes, kept_rows
from limaml_beam.build_tasks.grouping import segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.io import files, progress
from limaml_beam.io.sources import Source
from limaml_beam.io.staged_output import staged_file
from limaml_beam.io.tfrecords import frame_records, gzip_compressor
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import LABEL, TASK, TIME, WEIGHT
from limaml_beam.rows.feature_tables import join, load_tables
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks import folder, record_format, task_encoder

_ROWS = 32_768  # rows that are encoded at a time: the records of a shard are never all in memory


@dataclasses.dataclass(frozen=True)
class Spans:
    """The positions of the records of one split in a sorted table; all ``[records]``.

    Attributes:
        keys: Task keys.
        starts, stops: Rows, ascending and without overlap.
        query_starts: Index of the first query row within the record, or -1.
    """

    keys: pa.Array
    starts: Integers
    stops: Integers
    query_starts: Integers

    def sizes(self) -> Integers:
        """Support and query rows of each record ``[records, 2]``."""
        counts = self.stops - self.starts
        support = np.where(self.query_starts >= 0, self.query_starts, counts)
        return np.stack([support, counts - support], axis=1)


def spans(table: pa.Table, settings: TaskSettings) -> dict[str, Spans]:
    """The records of a sorted table, by split.

    A support set ends where the split begins, however many rows follow.
    """
    codes, keys = columnar.codes_of(table[TASK])
    times = columnar.to_numpy(table[TIME])
    tasks = np.arange(len(keys))
    first = np.searchsorted(codes, tasks)
    stop = np.append(first[1:], len(codes))
    # Codes follow the rows' order, so that the search below runs over sorted numbers.
    validation, test = np.searchsorted(
        codes * 3 + segments(table, settings), (tasks * 3)[:, None] + [1, 2]
    ).T

    def support_from(end: Integers, earliest: int) -> Integers:
        too_early = np.concatenate([[0], np.cumsum(times < earliest)])
        return np.maximum(first + too_early[end] - too_early[first], end - settings.max_samples)

    train, recent = (
        support_from(validation, settings.support_start),
        support_from(test, settings.recent_start),
    )
    no_query = np.full(len(tasks), -1)
    limits = {
        "train": (train, validation, train, no_query),
        "validation": (validation, test, train, validation - train),
        "test": (test, stop, recent, test - recent),
        "recent": (recent, test, recent, no_query),
    }
    by_split = {}
    for split in splits(settings):
        required_start, end, start, query_start = limits[split]
        nonempty = np.flatnonzero(end > required_start)
        by_split[split] = Spans(
            keys.take(pa.array(nonempty)), start[nonempty], end[nonempty], query_start[nonempty]
        )
    return by_split


def task_slices(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """Slices of a sorted table into whole tasks; all but the last have at least `rows` rows."""
    codes, _ = columnar.codes_of(table[TASK])
    start = 0
    while start < len(codes):
        last = min(start + rows, len(codes)) - 1
        stop = int(np.searchsorted(codes, codes[last], side="right"))
        yield table.slice(start, stop - start)
        start = stop


def encoder(
    schema: Schema, table: pa.Table, other_definitions: Sequence[str] = ()
) -> task_encoder.TaskEncoder:
    """The record encoder over a block's columns; see `record_format.encode_task`."""
    columns: dict[str, Any] = {feature.name: table[feature.name] for feature in schema.all_features}
    columns |= {name: table[name] for name in schema.carry}
    columns |= {record_format.LABEL: table[LABEL], record_format.TIMESTAMP: table[TIME]}
    if schema.weight is not None:
        columns[record_format.WEIGHT] = table[WEIGHT]
    columns |= {
        record_format.key_list(name): table[columnar.other_key_column(name)]
        for name in other_definitions
    }
    return task_encoder.TaskEncoder(schema, columns, other_definitions)


class WriteShard(beam.DoFn):
    """(shard, sorted table) -> files of one task definition; yields a summary for the data card."""

    def __init__(
        self,
        schema: Schema,
        settings: TaskSettings,
        sources: Mapping[str, Source],
        definition: str,
        directory: str,
    ) -> None:
        self.schema, self.settings, self.sources = schema, settings, dict(sources)
        self.definition, self.directory = definition, directory
        self.other_definitions = schema.other_definitions(definition, settings.definitions)
        with_episodes = definition in episodes.definitions_with(schema, settings)
        self.episodes = [
            folder.episode(number) for number in range(settings.episodes if with_episodes else 0)
        ]

    def setup(self) -> None:
        """Loads the feature tables."""
        self.tables = load_tables(self.schema, self.sources)

    def process(self, element: tuple[int, pa.Table]) -> Iterator[tuple[str, dict[str, Integers]]]:
        """Encodes and writes every split of the shard.

        Yields:
            The definition, and for each split how often each pair (support rows, query rows) occurs
            ``[sizes, 3]``.
        """
        shard, table = element
        sizes: dict[str, list[Integers]] = {
            split: [np.empty((0, 2), np.int64)]
            for split in (*splits(self.settings), *self.episodes)
        }
        with contextlib.ExitStack() as stack:
            writers = {
                split: stack.enter_context(_compressed(self._path(split, shard))) for split in sizes
            }
            rows = stack.enter_context(self._kept_rows(shard))
            for part in task_slices(table, _ROWS):
                progress.advance(f"writing {self.definition}", part.num_rows)
                joined = join(self.schema, self.tables, part)
                for split, records, positions in self._records(part, joined):
                    writers[split](frame_records(records))
                    sizes[split].append(positions.sizes())
                    if rows is not None and split == folder.RECENT:
                        rows.add(joined, positions.keys, positions.starts, positions.stops)
        size_counts = {}
        for split, pairs in sizes.items():
            distinct, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
            Metrics.counter("build_tasks", f"tasks:{self.definition}:{split}").inc(
                int(counts.sum())
            )
            size_counts[split] = np.concatenate([distinct, counts[:, None]], axis=1)
        yield self.definition, size_counts

    def _records(
        self, part: pa.Table, joined: pa.Table
    ) -> Iterator[tuple[str, pa.LargeBinaryArray, Spans]]:
        """Each split's name, its records, and their position in the table."""
        record_encoder = encoder(self.schema, joined, self.other_definitions)
        by_split = spans(part, self.settings)
        for split, positions in by_split.items():
            yield split, encoded(record_encoder, positions), positions
        for number, name in enumerate(self.episodes):
            positions = self._episode(by_split["train"], part, number)
            frozen = record_encoder.with_columns(episodes.frozen_columns(self.schema, part, number))
            yield name, encoded(frozen, positions), positions

    def _episode(self, train: Spans, part: pa.Table, number: int) -> Spans:
        """The records of an episode: those of the training rows that have query rows."""
        starts = episodes.query_starts(part, train.starts, train.stops, number)
        stops = episodes.query_stops(part, self.settings, train.starts, train.stops, number)
        kept = np.flatnonzero(stops > train.starts + starts)
        return Spans(train.keys.take(pa.array(kept)), train.starts[kept], stops[kept], starts[kept])

    def _kept_rows(
        self, shard: int
    ) -> contextlib.AbstractContextManager[kept_rows.KeptRowsWriter | None]:
        if not self.settings.keep_rows:
            return contextlib.nullcontext()
        return kept_rows.writing(self._file_path(kept_rows.shard_path(shard)))

    def _path(self, split: str, shard: int) -> str:
        return self._file_path(folder.shard_name(split, shard, self.settings.shards))

    def _file_path(self, name: str) -> str:
        return files.join(self.directory, self.definition, name)


def encoded(record_encoder: task_encoder.TaskEncoder, positions: Spans) -> pa.LargeBinaryArray:
    """The records of spans ``[records]``."""
    return record_encoder.encode_tasks(
        positions.keys, positions.starts, positions.stops, positions.query_starts
    )


def splits(settings: TaskSettings) -> tuple[str, ...]:
    """Names of the splits that are written."""
    return (folder.RECENT,) if settings.recent_only else folder.SPLITS


@contextlib.contextmanager
def _compressed(path: str) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends to a gzip file."""
    compressor = gzip_compressor()
    with staged_file(path) as file:
        yield lambda content: file.write(compressor.compress(content))
        file.write(compressor.flush())
