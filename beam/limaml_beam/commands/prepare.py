"""``limaml prepare``: raw interactions to task records."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from limaml_beam.commands.beam_flags import add_beam_flag, add_report_flag, report_paths
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Schema, Split
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, EPISODE, SCHEMA_FILE

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DESCRIPTION = """\
Builds task records: joins feature tables to interactions, splits by date, groups by task, keeps
the most recent rows.

  limaml prepare raw --output tasks
  limaml prepare --schema s.yaml --interactions 'log/*.parquet' --table users=users.csv --output tasks
  limaml prepare raw --output today --recent-only --window-days 28     a daily job's input for `limaml embed`;
                                                                       with history features: --history-prior tasks

Beam's own flags are given as --beam=FLAG, for example --beam=--runner=DataflowRunner, or directly
to `python -m limaml_beam.build_tasks`. Next: limaml train tasks --output run
"""  # noqa: E501


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml prepare``."""
    parser.add_argument(
        "raw", nargs="?", metavar="RAW", help="folder made by `limaml datasets prepare`"
    )
    parser.add_argument("--output", required=True, metavar="TASKS", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    source = parser.add_argument_group("input files (instead of RAW)")
    source.add_argument("--schema", metavar="FILE", help="schema file (default: RAW/schema.yaml)")
    source.add_argument(
        "--interactions",
        action="append",
        metavar="PATTERN",
        help="Parquet, CSV or TFRecord files; may be repeated",
    )
    source.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="files of a feature table; may be repeated",
    )
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument(
        "--task",
        action="append",
        metavar="DEFINITION",
        help="task definition; may be repeated (default: all of the schema)",
    )
    tasks.add_argument(
        "--max-samples",
        type=int,
        default=100,
        metavar="N",
        help="most recent support rows per task (default 100)",
    )
    tasks.add_argument(
        "--max-query",
        type=int,
        default=1000,
        metavar="N",
        help="most recent query rows per task (default 1000)",
    )
    tasks.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="also write N support/query splits of each training task, whose query rows' history "
        "features are frozen at the split, as a daily job serves them; `limaml train` reads one "
        "per epoch (default: 8 with --split-per-task and history features, else 0)",
    )
    dates = parser.add_argument_group("dates (ISO 8601; default: the schema's split)")
    for name in ("train-start", "validation-start", "test-start", "test-end"):
        dates.add_argument(f"--{name}", metavar="DATE")
    dates.add_argument(
        "--split-per-task",
        metavar="TRAIN,VALIDATION,TEST",
        help="instead of dates: shares of each task's own rows in time order, e.g. 0.6,0.2,0.2",
    )
    dates.add_argument(
        "--window-days",
        type=float,
        metavar="X",
        help="support rows come from the last X days before a split only",
    )
    dates.add_argument(
        "--recent-only",
        action="store_true",
        help="no evaluation splits: write only what embeddings are made of",
    )
    dates.add_argument(
        "--history-prior",
        metavar="TRAINED",
        help="with --recent-only and history features: the folder of task records that the model "
        "was trained on, towards whose mean label their rates are smoothed, or that mean (default: "
        "the mean label of this run's rows, which is not what the model saw)",
    )
    dates.add_argument(
        "--window-end", metavar="DATE", help="end of the window with --recent-only (default: now)"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="files per split (default: by the size of the input)",
    )
    work.add_argument(
        "--max-bad-fraction",
        "--max_bad_fraction",
        type=float,
        default=0.05,
        metavar="F",
        help="fail above this share of invalid rows (default 0.05)",
    )
    add_report_flag(parser)
    add_beam_flag(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the pipeline; returns the data card with ``output``."""
    from limaml_beam.io import outcome
    from limaml_beam.io.pipeline_options import use_options

    options = use_options(arguments.beam)
    with outcome.reported("prepare", report_paths(arguments)):
        return _run(arguments, options)


def _run(arguments: argparse.Namespace, options: PipelineOptions) -> dict[str, Any]:
    from apache_beam.options.pipeline_options import StandardOptions

    from limaml_beam.build_tasks.pipeline import Inputs, build_tasks
    from limaml_beam.build_tasks.settings import TaskSettings, cut_dates
    from limaml_beam.io import outcome
    from limaml_beam.io.pipeline_options import LOCAL_RUNNER

    outcome.stage("match")
    if not 0 <= arguments.max_bad_fraction <= 1:
        raise LimamlError(
            f"--max-bad-fraction must lie between 0 and 1, received {arguments.max_bad_fraction}"
        )
    schema, interactions, tables = _sources(arguments)
    if arguments.split_per_task is not None:
        schema = schema.replace(split=Split(per_task=_shares(arguments.split_per_task)))
    inputs = Inputs.find(schema, interactions, tables)
    definitions = tuple(dict.fromkeys(arguments.task or schema.tasks))
    for definition in definitions:
        schema.task_columns(definition)
    dates = {name: getattr(arguments, name) for name in _DATES}
    by_size = max(4, min(4096, inputs.interactions.size // 2**21))
    settings = TaskSettings(
        definitions=definitions,
        max_samples=arguments.max_samples,
        max_query=arguments.max_query,
        shards=arguments.shards or by_size,
        partitions=by_size,
        prior=_prior(schema, arguments),
        episodes=_episodes(schema, arguments),
        **cut_dates(schema, **dates),  # type: ignore[arg-type]
    )
    if options.view_as(StandardOptions).runner == LOCAL_RUNNER:
        # It logs a worker's traceback before it raises; the error itself is what helps. Other
        # runners' logs are their display.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    card = build_tasks(
        schema,
        inputs,
        arguments.output,
        settings,
        options=options,
        max_bad_fraction=arguments.max_bad_fraction,
        overwrite=arguments.overwrite,
    )
    return {"output": arguments.output, **card}


def _episodes(schema: Schema, arguments: argparse.Namespace) -> int:
    """How many training episodes to write."""
    can = bool(schema.history) and not arguments.recent_only
    if arguments.episodes is None:
        within_tasks = schema.split is not None and schema.split.per_task is not None
        return 8 if can and within_tasks else 0
    if arguments.episodes and not can:
        raise LimamlError(
            f"--episodes {arguments.episodes} needs history features in the schema and evaluation "
            "splits; leave it out"
        )
    return int(arguments.episodes)


def _shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise LimamlError(
            f"--split-per-task needs three numbers such as 0.6,0.2,0.2, received {text!r}"
        ) from error
    return train, validation, test


def _prior(schema: Schema, arguments: argparse.Namespace) -> float | None:
    """The mean label of the rows that the model was trained on: as given, or from the data card
    beside their records.
    """
    if arguments.history_prior is None:
        if arguments.recent_only and schema.history:
            logging.getLogger(__name__).warning(
                "history rates are smoothed towards the mean label of this run's rows, not towards "
                "that of the training; "
                "give --history-prior with the folder that the model was trained on"
            )
        return None
    if not arguments.recent_only:
        raise LimamlError(
            "--history-prior needs --recent-only; with evaluation splits the prior is that of the "
            "training rows"
        )
    with contextlib.suppress(ValueError):
        return float(arguments.history_prior)
    from limaml_beam.io import files

    path = files.join(arguments.history_prior, DATA_CARD_FILE)
    text = files.read_text(path)
    if text is None:
        raise LimamlError(
            f"no data card at {path}; --history-prior names a folder made by `limaml prepare`"
        )
    card = json.loads(text)
    if card["schema_fingerprint"] != schema.fingerprint():
        raise LimamlError(
            f"--history-prior {arguments.history_prior} has another schema ({card['name']!r}) "
            f"than {schema.name!r}"
        )
    return float(card["splits"]["train"]["label_rate"])


_DATES = (
    "train_start",
    "validation_start",
    "test_start",
    "test_end",
    "window_days",
    "recent_only",
    "window_end",
)


def _sources(arguments: argparse.Namespace) -> tuple[Schema, list[str], dict[str, list[str]]]:
    """Schema, interaction patterns and table patterns from RAW or from the explicit options."""
    tables: dict[str, list[str]] = {}
    for item in arguments.table:
        name, equals, pattern = item.partition("=")
        if not (name and equals and pattern):
            raise LimamlError(f"--table needs NAME=PATTERN, received {item!r}")
        tables.setdefault(name, []).append(pattern)
    from limaml_beam.io import files

    if arguments.raw is None:
        if not (arguments.schema and arguments.interactions):
            raise LimamlError("give the folder RAW, or both --schema and --interactions")
        return _schema(arguments.schema), arguments.interactions, tables
    raw = arguments.raw
    if not files.exists(raw):
        raise LimamlError(
            f"no folder {raw}; make one with `limaml datasets prepare NAME --output {raw}`"
        )
    schema = _schema(arguments.schema or files.join(raw, SCHEMA_FILE))
    found = {name: [files.join(raw, f"{name}.parquet")] for name in schema.tables}
    return (
        schema,
        arguments.interactions or [files.join(raw, "interactions.parquet")],
        {**found, **tables},
    )


def _schema(path: str) -> Schema:
    """A schema on any Beam filesystem."""
    from limaml_beam.io import files

    if files.is_local(path):
        return Schema.load(path)
    text = files.read_text(path)
    if text is None:
        raise SchemaError(f"no schema file at {path}")
    return Schema.from_yaml(text, path)


def render(card: dict[str, Any]) -> str:
    """The data card for people."""
    rows, train = card["rows"], card["splits"]["train"]
    lines = [
        f"wrote {card['output']}: {rows['used']} of {rows['read']} rows used, training label rate "
        f"{train['label_rate']:.4f}"
    ]
    lines += [
        f"  skipped {number}: {reason}" for reason, number in rows["skipped"].items() if number
    ]
    for definition, splits in card["tasks"].items():
        written = [split for split in splits if split.startswith(EPISODE)]
        if written:
            lines.append(f"  {definition}: {len(written)} support/query splits of its train rows")
        for split, part in splits.items():
            if split in written:
                continue
            lines.append(
                f"  {definition}/{split}: {part['tasks']} tasks, {part['support_rows']} support "
                f"and {part['query_rows']} query rows"
            )
    lines += [f"  check: {warning}" for warning in card["warnings"]]
    return "\n".join([*lines, f"next: limaml train {card['output']} --output RUN"])


COMMAND = Command(
    help="build task records from interactions and feature tables (Beam)",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
