"""Runs the task-building pipeline and writes task records, statistics and a data card.

As a program: ``python -m limaml_beam.build_tasks --help``.
"""

from __future__ import annotations

import json
from typing import Any

import yaml
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from limaml_beam.build_tasks import data_card, quality
from limaml_beam.build_tasks.explanation import Explanation
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.pipeline import REPORT, construct
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES
from limaml_beam.io import files, outcome, progress, runner_errors, staged_output
from limaml_beam.io.pipeline_options import LOCAL_RUNNER, new_pipeline
from limaml_beam.io.staged_output import write_file
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, SCHEMA_FILE, STATISTICS_FILE

_SHUFFLE = "_shuffle"


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
    """Runs the pipeline; `output` appears complete or not at all.

    The next run to the same local output removes the files of a killed run.

    Args:
        schema: Schema of the interactions and feature tables.
        inputs: The files of interactions and feature tables.
        output: Folder to create, local or on any Beam filesystem.
        settings: Definitions, dates, numbers of rows and shards.
        options: Beam's options; see `limaml_beam.io.pipeline_options.local_by_default`.
        max_bad_fraction: Largest share of invalid rows, from 0 to 1. Duplicates and rows outside
            the dates do not count as invalid.
        overwrite: Replace an existing output.

    Returns:
        The data card.

    Raises:
        LimamlError: The output exists, an input cannot be read, too many rows are invalid, or a
            split is empty. Nothing is written then, except that a local run keeps its dead letters
            in ``<output>.rejected``.
    """
    staged_output.check_free(output, overwrite, STATISTICS_FILE, inputs.files())
    inputs.check(schema, settings.definitions)
    staging = staged_output.staging_of(output)
    try:
        outcome.stage("build")
        with staged_output.hold_lock(staging, output):
            with progress.display():
                _run(schema, settings, inputs, staging, options)
            with runner_errors.readable(output):
                card = _finish(schema, settings, inputs, staging, max_bad_fraction)
                outcome.stage("write")
                staged_output.publish(staging, output)
    except LimamlError as error:
        rejected_folder = staged_output.keep_dead_letters(staging, output)
        raise type(error)(
            f"{error}; the rejected rows are in {rejected_folder}"
            if rejected_folder
            else str(error)
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
    pipeline = new_pipeline(options)
    shuffle = _shuffle(directory, options)
    construct(pipeline, schema, settings, inputs, directory, shuffle)
    with runner_errors.readable(directory):
        pipeline.run().wait_until_finish()
    if shuffle.scratch is not None:
        staged_output.discard(shuffle.scratch)


def _shuffle(directory: str, options: PipelineOptions | None) -> Shuffle:
    """Shuffles through files beside the output for the in-process runner.

    The runner itself would hold them in memory.
    """
    in_process = options is not None and options.view_as(StandardOptions).runner == LOCAL_RUNNER
    return Shuffle(
        files.join(directory, _SHUFFLE) if in_process and files.is_local(directory) else None
    )


def _finish(
    schema: Schema,
    settings: TaskSettings,
    inputs: Inputs,
    directory: str,
    max_bad_fraction: float,
) -> dict[str, Any]:
    """Checks the counts; writes schema, statistics and data card beside the records."""
    names = ("counts", UNREADABLE_VALUES, "summary", "statistics", "sizes", "drift")
    report = {name: _read_json(files.join(directory, REPORT, f"{name}.json")) for name in names}
    outcome.note(counts=report["counts"])
    outcome.stage(outcome.CHECK)
    explanation = Explanation(schema, directory)
    quality.check(schema, report["counts"], explanation.example)
    read = inputs.interactions.files
    rows = data_card.check_counts(
        report["counts"], max_bad_fraction, settings, explanation.of, read
    )
    summary = SplitSummary(**report["summary"])
    data_card.check_splits(summary, settings)
    data_card.check_label(schema, summary, settings)
    card = data_card.make_card(schema, settings, rows, summary, report)
    card["files"] = inputs.describe()
    report["statistics"]["quality"] = card["quality"]
    text = yaml.safe_dump(schema.to_dict(), sort_keys=False, allow_unicode=True)
    write_file(files.join(directory, SCHEMA_FILE), text.encode())
    write_file(
        files.join(directory, STATISTICS_FILE),
        (json.dumps(report["statistics"], indent=1) + "\n").encode(),
    )
    write_file(files.join(directory, DATA_CARD_FILE), (json.dumps(card, indent=1) + "\n").encode())
    staged_output.discard(files.join(directory, REPORT))
    return card


def _read_json(path: str) -> Any:
    with files.open_binary(path) as handle:
        return json.loads(handle.read())
