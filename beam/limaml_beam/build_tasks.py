"""Pipeline 1: labelled interactions and feature tables to task records, statistics and a data card.

As a program: ``python -m limaml_beam.build_tasks --help``. As a library: `ReadInteractions` and `WriteTasks` are composite
transforms; `build_tasks` runs both and publishes the result.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from limaml_beam import columnar, task_writing
from limaml_beam.columnar import ORDER
from limaml_beam.feature_statistics import StatisticsFn
from limaml_beam.options import TaskSettings
from limaml_beam.sources import Source, check_columns
from limaml_beam.task_grouping import GroupTasks
from limaml_beam.validation import COUNTS, ERROR, REJECTED, DropDuplicates, ReadAndValidate, interaction_columns, table_columns
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.records import DATA_CARD_FILE, SCHEMA_FILE, STATISTICS_FILE
from tfrec_limaml.schema import Schema
from tfrec_limaml.statistics import Statistics

_LOGGER = logging.getLogger(__name__)
_REPORT = "_report"
_QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is read: the interaction files and those of each feature table."""

    interactions: Source
    tables: Mapping[str, Source]

    @classmethod
    def find(cls, schema: Schema, interactions: str | Sequence[str], tables: Mapping[str, str | Sequence[str]]) -> Inputs:
        """Matches file patterns; raises `LimamlError` for missing or unknown tables and for empty patterns."""
        missing, unknown = sorted(set(schema.tables) - set(tables)), sorted(set(tables) - set(schema.tables))
        if missing or unknown:
            raise LimamlError(
                f"the schema {schema.name!r} joins the tables {sorted(schema.tables)}; missing: {missing}, unknown: {unknown}"
            )
        return cls(Source.match("interactions", interactions), {n: Source.match(f"table {n!r}", p) for n, p in tables.items()})

    def check(self, schema: Schema, definitions: tuple[str, ...]) -> None:
        """Fails early where a first file lacks a column."""
        check_columns(self.interactions, interaction_columns(schema, definitions))
        for name, source in self.tables.items():
            check_columns(source, table_columns(schema, name))


class ReadInteractions(beam.PTransform):
    """Files -> ``{"blocks": distinct valid rows, "rejected": dead letters as JSON lines, "counts": dictionaries}``."""

    def __init__(self, schema: Schema, settings: TaskSettings, inputs: Inputs) -> None:
        super().__init__()
        self.schema, self.settings, self.inputs = schema, settings, inputs

    def expand(self, begin: Any) -> dict[str, Any]:
        """Reads, validates, joins, drops duplicates."""
        read = (
            begin
            | "files" >> beam.Create(self.inputs.interactions.files)
            | "spread" >> beam.Reshuffle()
            | "read and validate"
            >> beam.ParDo(ReadAndValidate(self.schema, self.settings, self.inputs.tables))
            .with_outputs(REJECTED, COUNTS, main="blocks")
            .with_output_types(pa.Table)
        )
        distinct = (
            read.blocks
            | "deal by content" >> beam.FlatMap(_deal_by_content, self.settings.partitions).with_output_types(tuple[int, pa.Table])
            | "same content together" >> beam.GroupByKey()
            | "drop duplicates" >> beam.ParDo(DropDuplicates()).with_outputs(COUNTS, main="blocks").with_output_types(pa.Table)
        )
        counts = (read[COUNTS], distinct[COUNTS]) | "all counts" >> beam.Flatten()
        return {"blocks": distinct.blocks, REJECTED: read[REJECTED], COUNTS: counts}


class WriteTasks(beam.PTransform):
    """Blocks -> task record files of every definition; returns ``(definition, record sizes by split)`` per shard."""

    def __init__(self, schema: Schema, settings: TaskSettings, directory: str) -> None:
        super().__init__()
        self.schema, self.settings, self.directory = schema, settings, directory

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """One branch per task definition, all from one pass over the data."""
        written = [
            blocks
            | f"group {definition}" >> GroupTasks(self.schema, self.settings, definition)
            | f"write {definition}" >> beam.ParDo(task_writing.WriteShard(self.schema, self.settings, definition, self.directory))
            for definition in self.settings.definitions
        ]
        return written | "all definitions" >> beam.Flatten()


def _deal_by_content(block: pa.Table, partitions: int) -> Any:
    return columnar.partition(block, columnar.to_numpy(block[ORDER]), partitions)  # type: ignore[arg-type]


def construct(pipeline: beam.Pipeline, schema: Schema, settings: TaskSettings, inputs: Inputs, directory: str) -> None:
    """Adds the whole of pipeline 1 to a Beam pipeline; its files go below `directory`."""
    found = pipeline | "interactions" >> ReadInteractions(schema, settings, inputs)
    sizes = found["blocks"] | "tasks" >> WriteTasks(schema, settings, directory)
    statistics = found["blocks"] | "statistics" >> beam.CombineGlobally(StatisticsFn(schema, settings))
    found[REJECTED] | "dead letters" >> beam.io.WriteToText(
        FileSystems.join(directory, "dead_letter", "rows"), file_name_suffix=".jsonl", skip_if_empty=True
    )
    parts = {
        "counts": found[COUNTS] | "add counts" >> beam.CombineGlobally(columnar.sum_counts),
        "statistics": statistics | "as dictionary" >> beam.Map(dataclasses.asdict),
        "sizes": sizes | "summaries" >> beam.combiners.ToList() | "card" >> beam.Map(describe_sizes),
    }
    for name, part in parts.items():
        part | f"report {name}" >> beam.Map(_write_json, FileSystems.join(directory, _REPORT, f"{name}.json"))


def describe_sizes(summaries: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Tasks, samples and quantiles of samples per task, by definition and split."""
    gathered: dict[str, dict[str, list[Any]]] = {}
    for definition, by_split in summaries:
        for split, pairs in by_split.items():
            gathered.setdefault(definition, {}).setdefault(split, []).append(pairs)
    return {d: {s: _describe(np.concatenate(p)) for s, p in by_split.items()} for d, by_split in gathered.items()}


def _describe(pairs: Any) -> dict[str, Any]:
    support, query = pairs[:, 0], pairs[:, 1]
    card: dict[str, Any] = {"tasks": len(pairs), "support_rows": int(support.sum()), "query_rows": int(query.sum())}
    if len(pairs):
        card["support_quantiles"] = {str(q): float(np.percentile(support, q)) for q in _QUANTILES}
        if query.any():
            card["query_quantiles"] = {str(q): float(np.percentile(query, q)) for q in _QUANTILES}
            card["share_of_tasks_with_history"] = float((support > 0).mean())
            card["share_of_query_rows_with_history"] = float(query[support > 0].sum() / query.sum())
    return card


def _write_json(content: Any, path: str) -> None:
    task_writing.write_file(path, json.dumps(content).encode())


def build_tasks(
    schema: Schema,
    inputs: Inputs,
    output: str,
    settings: TaskSettings,
    *,
    options: PipelineOptions | None = None,
    max_bad_fraction: float = 0.05,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the pipeline and publishes its output directory; returns the data card.

    Raises:
        LimamlError: The output exists, an input cannot be read, or too many rows are invalid. Nothing is published then; the
            dead letters are left beside the output.
    """
    if FileSystems.exists(output) and not overwrite:
        raise LimamlError(f"{output} exists; give --overwrite to replace it, or another --output")
    inputs.check(schema, settings.definitions)
    aside = f"{output.rstrip('/')}.partial-{uuid.uuid4().hex[:8]}"
    try:
        pipeline = beam.Pipeline(options=options)
        construct(pipeline, schema, settings, inputs, aside)
        pipeline.run().wait_until_finish()
        card = finish(schema, settings, aside, max_bad_fraction, output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _publish(aside, output)
    return card


def finish(schema: Schema, settings: TaskSettings, directory: str, max_bad_fraction: float, output: str) -> dict[str, Any]:
    """Checks the counts and writes schema, statistics and data card beside the records."""
    report = {name: json.loads(_read(FileSystems.join(directory, _REPORT, f"{name}.json"))) for name in ("counts", "statistics", "sizes")}
    counts = report["counts"]
    skipped = {name.removeprefix("skipped:"): n for name, n in sorted(counts.items()) if name.startswith("skipped:")}
    read, used = counts.get("rows_read", 0), counts.get("rows_used", 0)
    invalid = {name: n for name, n in skipped.items() if name not in ("duplicate", "outside_dates") and n}
    stopping = {name.removeprefix(ERROR): n for name, n in invalid.items() if name.startswith(ERROR)}
    if stopping:
        raise LimamlError(f"{sum(stopping.values())} of {read} rows are invalid where the schema says on_invalid: error: {stopping}")
    if sum(invalid.values()) > max_bad_fraction * read:
        raise LimamlError(f"{sum(invalid.values())} of {read} rows are invalid, more than --max-bad-fraction {max_bad_fraction}: {invalid}")
    if not used:
        raise LimamlError(f"no usable row among {read} read: {skipped}; check the dates of the split or the window")
    if read != used + sum(skipped.values()):
        raise LimamlError(f"rows do not add up: read {read}, used {used}, skipped {skipped}; this is a defect, please report it")
    card = {
        "name": schema.name,
        "rows": {"read": read, "used": used, "skipped": skipped},
        "filled": {n.removeprefix("filled:"): c for n, c in sorted(counts.items()) if n.startswith("filled:")},
        "unknown_keys": {n.removeprefix("unknown_key:"): c for n, c in sorted(counts.items()) if n.startswith("unknown_key:")},
        "label_rate": report["statistics"]["label_mean"],
        "training_rows": report["statistics"]["rows"],
        "tasks": report["sizes"],
        "settings": dataclasses.asdict(settings),
    }
    root = Path(directory)
    schema.save(root / SCHEMA_FILE)
    Statistics(**report["statistics"]).save(root / STATISTICS_FILE)
    (root / DATA_CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(root / _REPORT)
    return card


def _read(path: str) -> bytes:
    with FileSystems.open(path) as handle:
        return handle.read()


def _publish(aside: str, output: str) -> None:
    """Renames; an older output is moved away first and removed last, so that no half-written one is ever seen."""
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f"{target.name}.old-{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    Path(aside).rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Entry point of ``python -m limaml_beam.build_tasks``."""
    from tfrec_limaml.cli import main as limaml

    return limaml(["prepare", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
