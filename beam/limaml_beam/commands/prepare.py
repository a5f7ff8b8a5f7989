"""``limaml prepare``: builds task records from interactions."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.commands.beam_flags import (
    add_beam_flag,
    add_report_flags,
    quiet_local_runner,
    report_paths,
)
from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import output_location, tables_from
from tfrec_limaml.datasets.text_format import add_text_arguments
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.folder import EPISODE
from tfrec_limaml.wording import counted

DESCRIPTION = """\
Builds task records: joins feature tables to interactions, splits by date, groups by task, keeps
the most recent rows.

examples:
  limaml prepare raw --output tasks
  limaml prepare --schema s.yaml --interactions 'log/*.parquet' --table users=users.csv \\
      --output tasks

input of a daily `limaml embed` (with history features also --history-prior tasks):
  limaml prepare raw --output today --recent-only --window-days 28

Pass Beam's flags as --beam=FLAG, for example --beam=--runner=DataflowRunner, or directly
to `python -m limaml_beam.build_tasks`. Next: limaml train tasks --output run
"""

_FEW_ROWS = 50_000  # training rows below which episodes of a split by date have helped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml prepare``."""
    parser.add_argument(
        "raw", nargs="?", metavar="RAW", help="folder written by `limaml datasets prepare`"
    )
    parser.add_argument(
        "--output", type=output_location, required=True, metavar="TASKS", help="folder to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_source_arguments(parser.add_argument_group("input files (instead of RAW)"))
    _add_task_arguments(parser.add_argument_group("tasks"))
    _add_date_arguments(parser.add_argument_group("dates (ISO 8601; default: the schema's split)"))
    work = parser.add_argument_group("work")
    add_shards_argument(work)
    work.add_argument(
        "--max-bad-fraction",
        type=float,
        default=PrepareOptions.max_bad_fraction,
        metavar="F",
        help="fail above this share of invalid rows (default: %(default)s)",
    )
    add_report_flags(parser)
    add_beam_flag(parser)


def add_source_arguments(group: Any) -> None:
    """Adds the options for the files to read, which ``limaml refresh`` has too."""
    group.add_argument("--schema", metavar="FILE", help="schema file (default: RAW/schema.yaml)")
    group.add_argument(
        "--interactions",
        action="append",
        default=[],
        metavar="PATTERN",
        help="Parquet, CSV or TFRecord files, or folders of them; may be repeated",
    )
    group.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="files of a feature table; may be repeated",
    )
    add_text_arguments(group)
    group.add_argument(
        "--all-partitions",
        action="store_true",
        help="also open partitions of days outside the dates (if a folder's day is not that of "
        "its rows)",
    )


def add_samples_argument(group: Any) -> None:
    """The option for the length of records."""
    group.add_argument(
        "--max-samples",
        type=int,
        default=PrepareOptions.max_samples,
        metavar="N",
        help="most recent support rows per task (default: %(default)s)",
    )


def add_window_arguments(group: Any) -> None:
    """The options for the window that support rows come from."""
    group.add_argument(
        "--window-days",
        type=float,
        metavar="X",
        help="use support rows of the last X days before a split only",
    )
    group.add_argument(
        "--window-end",
        metavar="DATE",
        help="end of the window of the recent rows (default: now)",
    )


def add_shards_argument(group: Any) -> None:
    """The option for the number of files."""
    group.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="files per split (default: by the size of the input)",
    )


def _add_task_arguments(group: Any) -> None:
    group.add_argument(
        "--task",
        dest="tasks",
        action="append",
        default=[],
        metavar="DEFINITION",
        help="task definition, or several, comma-separated; may be repeated (default: all of the "
        "schema). If neither of two refines the other (user and video), each row of a record "
        "also holds its key under the other one, for `limaml train --joint-task`",
    )
    add_samples_argument(group)
    group.add_argument(
        "--max-query",
        type=int,
        default=PrepareOptions.max_query,
        metavar="N",
        help="most recent query rows per task (default: %(default)s)",
    )
    group.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="also write N support/query splits of each training task, with the history features "
        "of query rows frozen at the split, as they are served; `limaml train` reads one per "
        "epoch (default: 8 with --split-per-task and history features, else 0)",
    )


def _add_date_arguments(group: Any) -> None:
    for name, text in (
        ("train-start", "earlier rows are left out"),
        ("validation-start", "start of the validation rows"),
        ("test-start", "start of the test rows"),
        ("test-end", "rows from this time on are left out"),
    ):
        group.add_argument(f"--{name}", metavar="DATE", help=f"{text} (default: by the schema)")
    group.add_argument(
        "--split-per-task",
        metavar="TRAIN,VALIDATION,TEST",
        help="instead of dates: shares of each task's rows in time order, e.g. 0.6,0.2,0.2",
    )
    group.add_argument(
        "--recent-only",
        action="store_true",
        help="no evaluation splits: write only the records for the embedding job",
    )
    group.add_argument(
        "--history-prior",
        metavar="TRAINED",
        help="with --recent-only and history features: the mean label that rates are smoothed "
        "towards, or the folder of task records that the model was trained on, to take it "
        "from (default: the mean label of this run's rows, which differs from training)",
    )
    add_window_arguments(group)


def options_from(arguments: argparse.Namespace, without: Sequence[str] = ()) -> PrepareOptions:
    """The options that are given on the command line.

    Args:
        arguments: The parsed command line.
        without: Options with another meaning in the calling command.
    """
    names = {field.name for field in dataclasses.fields(PrepareOptions)} - set(without)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in names
    }
    if values.get("tasks"):
        values["tasks"] = tuple(name for text in values["tasks"] for name in text.split(","))
    if values.get("split_per_task") is not None:
        values["split_per_task"] = _shares(values["split_per_task"])
    tables = tables_from(arguments.table, "needs NAME=PATTERN")
    _check(values)
    return PrepareOptions(**values, tables=tables)


def _check(values: Mapping[str, Any]) -> None:
    """The checks of `PrepareOptions`, in the words of the command line."""
    if values.get("raw") is None and not (values.get("schema") and values.get("interactions")):
        raise LimamlError("give the folder RAW, or both --schema and --interactions")
    if values.get("history_prior") is not None and not values.get("recent_only"):
        raise LimamlError(
            "--history-prior needs --recent-only; with evaluation splits the prior comes from the "
            "training rows"
        )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the pipeline; returns the data card with ``output``."""
    from limaml_beam.build_tasks.prepare import prepare
    from limaml_beam.io import outcome
    from limaml_beam.io.pipeline_options import use_options

    # The report may be on a filesystem that needs the options, even if all else fails.
    quiet_local_runner(use_options(arguments.beam))
    with outcome.reported("prepare", report_paths(arguments), arguments.metrics_file):
        outcome.stage("match")
        options = options_from(arguments)
        return prepare(options, arguments.output, arguments.beam, arguments.overwrite)


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise LimamlError(
            f"--split-per-task needs three numbers such as 0.6,0.2,0.2, received {text!r}"
        ) from error
    return train, validation, test


def render(card: dict[str, Any]) -> str:
    """The data card as text."""
    rows, train = card["rows"], card["splits"]["train"]
    trained = any(split == "train" for splits in card["tasks"].values() for split in splits)
    lines = [
        f"wrote {card['output']}: {rows['used']} of {counted(rows['read'], 'row')} used, "
        f"{'training ' if trained else ''}label mean {train['label_rate']:.4f}"
    ]
    lines += [
        f"  skipped {number}: {reason}" for reason, number in rows["skipped"].items() if number
    ]
    if outside_dates := card["files"]["interactions"]["outside_dates"]:
        lines.append(
            f"  {counted(outside_dates, 'file')} not opened: partitions of days outside the dates"
        )
    for definition, splits in card["tasks"].items():
        episodes = [split for split in splits if split.startswith(EPISODE)]
        if episodes:
            lines.append(
                f"  {definition}: {counted(len(episodes), 'support/query split')} of its train rows"
            )
        for split, part in splits.items():
            if split in episodes:
                continue
            lines.append(
                f"  {definition}/{split}: {counted(part['tasks'], 'task')}, "
                f"{part['support_rows']} support and {counted(part['query_rows'], 'query row')}"
            )
    lines += [f"  check: {warning}" for warning in card["warnings"]]
    lines += _hints(card)
    next_command = (
        f"limaml train {shlex.quote(card['output'])} --output RUN"
        if trained
        else f"limaml embed {shlex.quote(card['output'])} --export EXPORT --output EMBEDDINGS"
    )
    return "\n".join([*lines, f"next: {next_command}"])


def _hints(card: Mapping[str, Any]) -> list[str]:
    """A line on episodes, if they are likely to help; see docs/results/small_data.md."""
    settings, rows = card["settings"], card["splits"]["train"]["rows"]
    by_date = settings["task_shares"] is None and not settings["recent_only"]
    if rows >= _FEW_ROWS or not by_date or not card["history"] or settings["episodes"]:
        return []
    return [f"  few training rows ({rows}): --episodes 24 may raise the AUC of LiMAML"]


COMMAND = Command(
    help="build task records from interactions and feature tables (Beam)",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
