"""``limaml prepare``: builds task records from interactions."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from limaml_beam.commands.beam_flags import (
    quiet_local_runner,
    report_paths,
)
from limaml_beam.commands.prepare_arguments import add_arguments, options_from
from tfrec_limaml.cli import Command
from tfrec_limaml.tasks.folder import EPISODE
from tfrec_limaml.wording import counted

DESCRIPTION = """\
Builds task records: joins feature tables to interactions, splits by date, groups by task, keeps
the most recent rows.

examples:
  limaml prepare raw --output tasks
  limaml prepare --schema s.yaml --interactions 'log/*.parquet' --table users=users.csv \\
      --output tasks

records for the model to deploy, whose settings `limaml train` has chosen on others:
  limaml prepare raw --output all --no-validation --test-start 2026-02-01

input of a daily `limaml embed` (with history features also --history-prior tasks):
  limaml prepare raw --output today --recent-only --window-days 28

Pass Beam's flags as --beam=FLAG, for example --beam=--runner=DataflowRunner, or directly
to `python -m limaml_beam.build_tasks`. Next: limaml train tasks --output run
"""

_FEW_ROWS = 50_000  # training rows below which episodes of a split by date have helped


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
    return "\n".join([*lines, f"next: limaml {_next_command(card, trained)}"])


def _next_command(card: Mapping[str, Any], trained: bool) -> str:
    tasks = shlex.quote(card["output"])
    if not trained:
        return f"embed {tasks} --export EXPORT --output EMBEDDINGS"
    if not card["splits"]["validation"]["rows"]:
        return f"train {tasks} --output FINAL --refit RUN"
    return f"train {tasks} --output RUN"


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
