"""Writes the task records of a shard: train, validation, test and recent files."""

from __future__ import annotations

import contextlib
import gzip
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from limaml_beam import columnar, progress
from limaml_beam.columnar import LABEL, TASK, TIME, WEIGHT
from limaml_beam.feature_tables import join, load_tables
from limaml_beam.options import TaskSettings
from limaml_beam.sources import Source, frame_record
from limaml_beam.task_grouping import segments
from tfrec_limaml import records
from tfrec_limaml.schema import Schema

Spans = Iterator[tuple[str, str, int, int, int]]


def shard_name(split: str, shard: int, shards: int) -> str:
    """File name of one shard of a split."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord.gz"


def spans(table: pa.Table, settings: TaskSettings) -> Spans:
    """(split, task key, start, stop, query_start) of every record that a sorted table holds.

    A support set ends before the split's start, whatever lies behind it: the cut is by date, never by count.
    """
    codes, keys = columnar.codes_of(table[TASK])
    times = columnar.to_numpy(table[TIME])
    segment = segments(times, settings)
    names = keys.to_pylist()
    first = np.searchsorted(codes, np.arange(len(names)))
    last = np.append(first[1:], len(codes))
    # Codes follow the rows' order, so that both searches below run over sorted numbers.
    cuts = np.searchsorted(codes * 3 + segment, (np.arange(len(names)) * 3)[:, None] + [1, 2])
    for name, start, stop, (validation, test) in zip(names, first.tolist(), last.tolist(), cuts.tolist(), strict=True):
        train = max(start + int(np.searchsorted(times[start:validation], settings.support_start)), validation - settings.max_samples)
        recent = max(start + int(np.searchsorted(times[start:test], settings.recent_start)), test - settings.max_samples)
        if test > recent:
            yield "recent", name, recent, test, -1
        if settings.recent_only:
            continue
        if validation > train:
            yield "train", name, train, validation, -1
        if test > validation:
            yield "validation", name, train, test, validation - train
        if stop > test:
            yield "test", name, recent, stop, test - recent


def encoder(schema: Schema, table: pa.Table) -> records.TaskEncoder:
    """The record encoder over a block's columns."""
    named: dict[str, Any] = {feature.name: table[feature.name] for feature in schema.all_features}
    named |= {name: table[name] for name in schema.carry}
    named |= {records.LABEL: table[LABEL], records.TIMESTAMP: table[TIME]}
    if schema.weight is not None:
        named[records.WEIGHT] = table[WEIGHT]
    return records.TaskEncoder(schema, {name: _values(column) for name, column in named.items()})


class WriteShard(beam.DoFn):
    """(shard, sorted table) -> files of one task definition; yields a summary for the data card."""

    def __init__(self, schema: Schema, settings: TaskSettings, sources: Mapping[str, Source], definition: str, directory: str) -> None:
        self.schema, self.settings, self.sources = schema, settings, dict(sources)
        self.definition, self.directory = definition, directory

    def setup(self) -> None:
        """Loads the feature tables."""
        self.tables = load_tables(self.schema, self.sources)

    def process(self, element: tuple[int, pa.Table]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Encodes and writes every split of the shard."""
        shard, table = element
        table = table.combine_chunks()
        progress.advance(f"writing {self.definition}", table.num_rows)
        encode = encoder(self.schema, join(self.schema, self.tables, table)).encode
        framed: dict[str, list[bytes]] = {split: [] for split in splits(self.settings)}
        sizes: dict[str, list[tuple[int, int]]] = {split: [] for split in framed}
        for split, key, start, stop, query_start in spans(table, self.settings):
            framed[split].append(frame_record(encode(key, start, stop, query_start)))
            support = query_start if query_start >= 0 else stop - start
            sizes[split].append((support, stop - start - support))
        for split, parts in framed.items():
            name = shard_name(split, shard, self.settings.shards)
            write_file(FileSystems.join(self.directory, self.definition, name), gzip.compress(b"".join(parts), compresslevel=3, mtime=0))
            Metrics.counter("build_tasks", f"tasks:{self.definition}:{split}").inc(len(parts))
        yield self.definition, {split: np.array(pairs, np.int64).reshape(-1, 2) for split, pairs in sizes.items()}


def splits(settings: TaskSettings) -> tuple[str, ...]:
    """Names of the splits that are written."""
    return ("recent",) if settings.recent_only else records.SPLITS


def write_file(path: str, content: bytes) -> None:
    """Writes a file under a name of its own, then renames it: a retried or doubled bundle leaves one whole file."""
    parent = path.rsplit("/", 1)[0]
    if not FileSystems.exists(parent):
        with contextlib.suppress(BeamIOError, OSError):  # another worker made it first
            FileSystems.mkdirs(parent)
    aside = f"{path}.{uuid.uuid4().hex}"
    with FileSystems.create(aside, compression_type=CompressionTypes.UNCOMPRESSED) as handle:
        handle.write(content)
    if FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([aside], [path])


def _values(column: pa.ChunkedArray) -> Any:
    if pa.types.is_string(column.type):
        return column.to_pylist()
    if pa.types.is_fixed_size_list(column.type):
        array = column.combine_chunks()
        return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return columnar.to_numpy(column)
