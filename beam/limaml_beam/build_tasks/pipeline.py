"""The task-building pipeline: interactions and feature tables to task records and statistics.

`ReadInteractions`, `AddHistory` and `WriteTasks` are composite transforms, and `construct` connects
them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa

from limaml_beam.build_tasks import data_card, episodes, history
from limaml_beam.build_tasks.drift import MeasureFeatures
from limaml_beam.build_tasks.duplicates import DropDuplicates
from limaml_beam.build_tasks.grouping import GroupTasks
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SummariseSplits
from limaml_beam.build_tasks.statistics import StatisticsFn
from limaml_beam.build_tasks.task_split import SplitWithinTasks
from limaml_beam.build_tasks.unreadable import add_unreadable
from limaml_beam.build_tasks.validation import (
    COUNTS,
    REJECTED,
    UNREADABLE_VALUES,
    ReadAndValidate,
)
from limaml_beam.build_tasks.writing import WriteShard
from limaml_beam.io import files
from limaml_beam.io.sources import Part, Source, parts_of_file
from limaml_beam.io.staged_output import write_file
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER
from limaml_beam.rows.feature_tables import JoinTables
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import DEAD_LETTERS

#: Folder of the counts and statistics that the pipeline writes for the data card.
REPORT = "_report"


class ReadInteractions(beam.PTransform):
    """Reads the interactions, joins the feature tables and drops repeated rows.

    Returns a dictionary of collections: ``partitions``, pairs ``(partition, block of distinct valid
    rows)``; ``rejected``, dead letters as JSON lines; ``counts`` and ``unreadable``, dictionaries
    for the data card.

    Args:
        schema: Schema of the interactions and feature tables.
        settings: The settings of the run.
        inputs: The files of interactions and feature tables.
        shuffle: How blocks are packed for shuffles.
    """

    def __init__(
        self, schema: Schema, settings: TaskSettings, inputs: Inputs, shuffle: Shuffle
    ) -> None:
        super().__init__()
        self.schema, self.settings, self.inputs, self.shuffle = schema, settings, inputs, shuffle

    def expand(self, begin: Any) -> dict[str, Any]:
        """Reads, validates, joins, drops duplicates."""
        read = (
            begin
            | "files" >> beam.Create(self.inputs.interactions.files)
            | "parts of files" >> beam.FlatMap(parts_of_file).with_output_types(Part)
            | "spread" >> beam.Reshuffle()
            | "read and validate"
            >> beam.ParDo(
                ReadAndValidate(
                    self.schema,
                    self.settings,
                    self.inputs.tables,
                    self.inputs.interactions.text,
                )
            )
            .with_outputs(REJECTED, COUNTS, UNREADABLE_VALUES, main="blocks")
            .with_output_types(pa.Table)
        )
        distinct = (
            read.blocks
            | "split by content"
            >> beam.FlatMap(
                _split_by_content, self.settings.partitions, self.shuffle
            ).with_output_types(tuple[int, bytes])
            | "same content together" >> beam.GroupByKey()
            | "drop duplicates"
            >> beam.ParDo(DropDuplicates(self.shuffle))
            .with_outputs(COUNTS, main="partitions")
            .with_output_types(tuple[int, pa.Table])
        )
        counts = (read[COUNTS], distinct[COUNTS]) | "all counts" >> beam.Flatten()
        empty = begin | "empty files" >> beam.Create(
            [
                json.dumps({"reason": "empty_file", "file": path, "line": 1})
                for path in self.inputs.interactions.empty
            ]
        )
        rejected = (read[REJECTED], empty) | "all rejected" >> beam.Flatten()
        return {
            "partitions": distinct.partitions,
            REJECTED: rejected,
            COUNTS: counts,
            UNREADABLE_VALUES: read[UNREADABLE_VALUES],
        }


class WriteTasks(beam.PTransform):
    """Groups blocks of rows into tasks, and writes the task records of every definition.

    Returns a collection of ``(definition, counted record sizes by split)``, one for each shard.

    Args:
        schema: Schema of the interactions and feature tables.
        settings: The settings of the run.
        tables: The files of each feature table.
        directory: Folder to write into.
        shuffle: How blocks are packed for shuffles.
    """

    def __init__(
        self,
        schema: Schema,
        settings: TaskSettings,
        tables: Mapping[str, Source],
        directory: str,
        shuffle: Shuffle,
    ) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.schema, self.settings, self.tables, self.directory = (
            schema,
            settings,
            dict(tables),
            directory,
        )

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """One branch per task definition, all from one pass over the data."""
        written = [
            blocks
            | f"group {definition}"
            >> GroupTasks(self.schema, self.settings, definition, self.shuffle)
            | f"write {definition}"
            >> beam.ParDo(
                WriteShard(self.schema, self.settings, self.tables, definition, self.directory)
            )
            for definition in self.settings.definitions
        ]
        return written | "all definitions" >> beam.Flatten()


def construct(
    pipeline: beam.Pipeline,
    schema: Schema,
    settings: TaskSettings,
    inputs: Inputs,
    directory: str,
    shuffle: Shuffle | None = None,
) -> None:
    """Adds the transforms of task building to a Beam pipeline.

    Args:
        pipeline: The Beam pipeline to add to.
        schema: Schema of the interactions and feature tables.
        settings: Definitions, dates, numbers of rows and shards.
        inputs: The files of interactions and feature tables.
        directory: Folder that all files are written below.
        shuffle: How blocks are packed for shuffles; by default into the shuffled elements.
    """
    shuffle = shuffle or Shuffle()
    interactions = pipeline | "interactions" >> ReadInteractions(schema, settings, inputs, shuffle)
    partitions = interactions["partitions"]
    if settings.task_shares is not None:
        partitions = partitions | "split within tasks" >> SplitWithinTasks(
            schema, settings, shuffle
        )
    blocks = partitions | "blocks" >> beam.Values().with_output_types(pa.Table)
    summary = blocks | "summary" >> beam.CombineGlobally(SummariseSplits(settings))
    if schema.history:
        if settings.episodes and settings.task_shares is None:
            partitions = partitions | "split times of episodes" >> beam.ParDo(
                episodes.AddSplitTimes(settings.episodes), beam.pvalue.AsSingleton(summary)
            ).with_output_types(tuple[int, pa.Table])
        added = partitions | "history" >> history.AddHistory(schema, settings, summary, shuffle)
        blocks = added["blocks"]
        added[history.ONLINE] | "write online copy" >> beam.Map(
            history.write_online, directory, settings.partitions
        )
    sizes = blocks | "tasks" >> WriteTasks(schema, settings, inputs.tables, directory, shuffle)
    _write_dead_letters(interactions[REJECTED], directory)
    report = {
        "counts": interactions[COUNTS] | "add counts" >> beam.CombineGlobally(columnar.sum_counts),
        UNREADABLE_VALUES: interactions[UNREADABLE_VALUES]
        | "add unreadable values" >> beam.CombineGlobally(add_unreadable),
        "summary": summary | "summary as dictionary" >> beam.Map(dataclasses.asdict),
        **_measured_features(blocks, schema, settings, inputs.tables),
        "sizes": sizes
        | "sizes of shards" >> beam.combiners.ToList()
        | "describe" >> beam.Map(data_card.describe_sizes),
    }
    _write_report(report, directory)


def _write_report(report: Mapping[str, beam.PCollection], directory: str) -> None:
    for name, part in report.items():
        part | f"report {name}" >> beam.Map(
            _write_json, files.join(directory, REPORT, f"{name}.json")
        )


def _write_dead_letters(rejected: beam.PCollection, directory: str) -> None:
    rejected | "dead letters" >> beam.io.WriteToText(
        files.join(directory, DEAD_LETTERS, "rows"),
        file_name_suffix=".jsonl",
        skip_if_empty=True,
    )


def _measured_features(
    blocks: beam.PCollection, schema: Schema, settings: TaskSettings, tables: Mapping[str, Source]
) -> dict[str, beam.PCollection]:
    """Statistics of the features, and how they drift."""
    joined = blocks | "join for statistics" >> beam.ParDo(
        JoinTables(schema, tables)
    ).with_output_types(pa.Table)
    return {
        "statistics": joined
        | "statistics" >> beam.CombineGlobally(StatisticsFn(schema, settings))
        | "statistics as dictionary" >> beam.Map(dataclasses.asdict),
        "drift": joined | "drift" >> beam.CombineGlobally(MeasureFeatures(schema, settings)),
    }


def _split_by_content(
    block: pa.Table, partitions: int, shuffle: Shuffle
) -> Iterator[tuple[int, bytes]]:
    return shuffle.split(block, columnar.to_numpy(block[ORDER]), partitions)


def _write_json(content: Any, path: str) -> None:
    write_file(path, json.dumps(content).encode())
