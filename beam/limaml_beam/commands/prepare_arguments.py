"""Options of ``limaml prepare``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.commands.beam_flags import add_beam_flag, add_report_flags
from tfrec_limaml.commands.arguments import output_location, tables_from
from tfrec_limaml.datasets.text_format import add_text_arguments
from tfrec_limaml.errors import LimamlError


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
        help="use only support rows of the last X days before the split, or before the end of the "
        "window (default: all)",
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
        "--no-validation",
        action="store_true",
        help="the validation rows are training rows too, and there may be no test rows: for the "
        "model that you deploy, see `limaml train --refit`",
    )
    group.add_argument(
        "--recent-only",
        action="store_true",
        help="no evaluation splits: write only the records for the embedding job",
    )
    group.add_argument(
        "--history-prior",
        metavar="TRAINED",
        help="with --recent-only and history features: the folder of task records that the model "
        "was trained on, or a number: the mean label towards which rates are smoothed "
        "(default: that of this run's rows, which differs from training)",
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


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise LimamlError(
            f"--split-per-task needs three numbers such as 0.6,0.2,0.2, received {text!r}"
        ) from error
    return train, validation, test
