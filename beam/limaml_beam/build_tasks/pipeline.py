"""Pipeline 1: labelled interactions and feature tables to task records, statistics and a data card.

As a program: ``python -m limaml_beam.build_tasks --help``. As a library: `ReadInteractions`,
`AddHistory` and `WriteTasks` are composite transforms, `construct` puts them together, and
`build_tasks` runs them and publishes the result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import yaml
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from limaml_beam.build_tasks import data_card, episodes, history, quality
from limaml_beam.build_tasks.drift import MeasureFeatures
from limaml_beam.build_tasks.grouping import GroupTasks
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary, SummariseSplits
from limaml_beam.build_tasks.statistics import StatisticsFn
from limaml_beam.build_tasks.task_split import SplitWithinTasks
from limaml_beam.build_tasks.validation import (
    COUNTS,
    REJECTED,
    DropDuplicates,
    ReadAndValidate,
)
from limaml_beam.build_tasks.writing import WriteShard
from limaml_beam.io import files, outcome, progress, runner_errors, staged_output
from limaml_beam.io.pipeline_options import LOCAL_RUNNER
from limaml_beam.io.sources import Part, Source, parts_of
from limaml_beam.io.staged_output import write_file
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER
from limaml_beam.rows.feature_tables import JoinTables
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, DEAD_LETTERS, SCHEMA_FILE, STATISTICS_FILE

_REPORT, _SHUFFLE = "_report", "_shuffle"


class ReadInteractions(beam.PTransform):
    """Files -> ``{"partitions": (partition, block of distinct valid rows), "rejected": JSON lines,
    "counts": dictionaries}``.
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
            | "parts of files" >> beam.FlatMap(parts_of).with_output_types(Part)
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
            .with_outputs(REJECTED, COUNTS, main="blocks")
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
        return {"partitions": distinct.partitions, REJECTED: rejected, COUNTS: counts}


class WriteTasks(beam.PTransform):
    """Blocks -> task record files of every definition; returns ``(definition, counted record sizes
    by split)`` per shard.
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
    """Adds the whole of pipeline 1 to a Beam pipeline; its files go below `directory`."""
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
            partitions = partitions | "cuts of episodes" >> beam.ParDo(
                episodes.AddCuts(settings.episodes), beam.pvalue.AsSingleton(summary)
            ).with_output_types(tuple[int, pa.Table])
        added = partitions | "history" >> history.AddHistory(schema, settings, summary, shuffle)
        blocks = added["blocks"]
        added[history.ONLINE] | "write online copy" >> beam.Map(
            history.write_online, directory, settings.partitions
        )
    sizes = blocks | "tasks" >> WriteTasks(schema, settings, inputs.tables, directory, shuffle)
    _write_dead_letters(interactions[REJECTED], directory)
    joined = blocks | "join for statistics" >> beam.ParDo(
        JoinTables(schema, inputs.tables)
    ).with_output_types(pa.Table)
    report = {
        "counts": interactions[COUNTS] | "add counts" >> beam.CombineGlobally(columnar.sum_counts),
        "summary": summary | "summary as dictionary" >> beam.Map(dataclasses.asdict),
        "statistics": joined
        | "statistics" >> beam.CombineGlobally(StatisticsFn(schema, settings))
        | "statistics as dictionary" >> beam.Map(dataclasses.asdict),
        "drift": joined | "drift" >> beam.CombineGlobally(MeasureFeatures(schema, settings)),
        "sizes": sizes
        | "sizes of shards" >> beam.combiners.ToList()
        | "describe" >> beam.Map(data_card.describe_sizes),
    }
    for name, part in report.items():
        part | f"report {name}" >> beam.Map(
            _write_json, FileSystems.join(directory, _REPORT, f"{name}.json")
        )


def _write_dead_letters(rejected: beam.PCollection, directory: str) -> None:
    rejected | "dead letters" >> beam.io.WriteToText(
        FileSystems.join(directory, DEAD_LETTERS, "rows"),
        file_name_suffix=".jsonl",
        skip_if_empty=True,
    )


def build_tasks(
    schema: Schema,
    inputs: Inputs,
    output: str,
    settings: TaskSettings,
    *,
    options: PipelineOptions | None = None,
    max_bad_fraction: float = PrepareOptions.max_bad_fraction,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the pipeline and publishes its output directory; returns the data card.

    Args:
        schema: The columns.
        inputs: The files.
        output: Directory to make, local or on any Beam filesystem.
        settings: Definitions, dates, caps and shards.
        options: Beam's options; see `limaml_beam.io.pipeline_options.local_by_default`.
        max_bad_fraction: Largest share of invalid rows (duplicates and rows outside the dates do
            not count).
        overwrite: Replace an existing output.

    Raises:
        LimamlError: The output exists, an input cannot be read, too many rows are invalid, or a
            split is empty. Nothing is published then; dead letters of a local run are left in
            ``<output>.rejected``. What a killed run left beside a local output goes with the next
            run to the same output.
    """
    staged_output.check_free(output, overwrite)
    inputs.check(schema, settings.definitions)
    staging = staged_output.staging_of(output)
    try:
        outcome.stage("build")
        with staged_output.held(staging, output):
            with progress.display():
                _run(schema, settings, inputs, staging, options)
            card = _finish(schema, settings, inputs, staging, max_bad_fraction)
            outcome.stage("write")
            staged_output.publish(staging, output)
    except LimamlError as error:
        kept = staged_output.keep_dead_letters(staging, output)
        raise type(error)(
            f"{error}; the rejected rows are in {kept}" if kept else str(error)
        ) from error
    finally:
        staged_output.discard(staging)
    return card


def _run(
    schema: Schema,
    settings: TaskSettings,
    inputs: Inputs,
    directory: str,
    options: PipelineOptions | None,
) -> None:
    pipeline = beam.Pipeline(options=options)
    shuffle = _shuffle(directory, options)
    construct(pipeline, schema, settings, inputs, directory, shuffle)
    with runner_errors.readable(directory):
        pipeline.run().wait_until_finish()
    if shuffle.scratch is not None:
        staged_output.discard(shuffle.scratch)


def _shuffle(directory: str, options: PipelineOptions | None) -> Shuffle:
    """Shuffles of the in-process runner go through files beside the output: it would hold them in
    memory.
    """
    in_process = options is not None and options.view_as(StandardOptions).runner == LOCAL_RUNNER
    return Shuffle(
        FileSystems.join(directory, _SHUFFLE) if in_process and files.is_local(directory) else None
    )


def _finish(
    schema: Schema,
    settings: TaskSettings,
    inputs: Inputs,
    directory: str,
    max_bad_fraction: float,
) -> dict[str, Any]:
    """Checks the counts; writes schema, statistics and data card beside the records."""
    names = ("counts", "summary", "statistics", "sizes", "drift")
    report = {
        name: _read_json(FileSystems.join(directory, _REPORT, f"{name}.json")) for name in names
    }
    outcome.note(counts=report["counts"])
    outcome.stage(outcome.CHECK)
    quality.check(schema, report["counts"])
    rows = data_card.check_counts(report["counts"], max_bad_fraction)
    summary = SplitSummary(**report["summary"])
    data_card.check_splits(summary, settings)
    card = data_card.make_card(
        schema, settings, rows, report["counts"], summary, report["sizes"], report["drift"]
    )
    card["files"] = inputs.describe()
    report["statistics"]["quality"] = card["quality"]
    text = yaml.safe_dump(schema.to_dict(), sort_keys=False, allow_unicode=True)
    write_file(FileSystems.join(directory, SCHEMA_FILE), text.encode())
    write_file(
        FileSystems.join(directory, STATISTICS_FILE),
        (json.dumps(report["statistics"], indent=1) + "\n").encode(),
    )
    write_file(
        FileSystems.join(directory, DATA_CARD_FILE), (json.dumps(card, indent=1) + "\n").encode()
    )
    staged_output.discard(FileSystems.join(directory, _REPORT))
    return card


def _split_by_content(
    block: pa.Table, partitions: int, shuffle: Shuffle
) -> Iterator[tuple[int, bytes]]:
    for part, rows in columnar.partition(block, columnar.to_numpy(block[ORDER]), partitions):
        yield part, shuffle.pack(rows)


def _write_json(content: Any, path: str) -> None:
    write_file(path, json.dumps(content).encode())


def _read_json(path: str) -> Any:
    with FileSystems.open(path) as handle:
        return json.loads(handle.read())
