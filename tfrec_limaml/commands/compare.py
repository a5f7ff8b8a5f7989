"""``limaml compare``: LiMAML and other models on your data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml import staging
from tfrec_limaml.cli import Command, say
from tfrec_limaml.commands.arguments import at_least, output_folder
from tfrec_limaml.report.comparison_page import (
    gain_text,
    mean_of_seeds,
    seed_notes,
    slice_auc,
    slices,
    write_comparison_page,
)
from tfrec_limaml.tensorflow_setup import import_tensorflow
from tfrec_limaml.wording import counted

_DESCRIPTION = """\
Trains LiMAML and common alternatives on the same rows and features, over several seeds. Settings
are chosen on the validation rows; results are measured on the test rows. The alternatives are a
constant, label rates, logistic regression, LightGBM, plain networks (also fine-tuned, and
wide-and-deep), attention over the history (DIN), random effects per task (GLMix) and variants of
LiMAML. Every run is kept, so an interrupted comparison continues where it stopped.

example:
  limaml compare runs/tasks --output runs/compare --seeds 3
  limaml compare runs/tasks --output runs/compare --rivals lightgbm,vanilla,limaml
LightGBM and logistic regression need `pip install tfrec-limaml[compare]`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml compare``."""
    parser.add_argument(
        "tasks", metavar="TASKS", type=Path, help="folder written by `limaml prepare`"
    )
    parser.add_argument(
        "--output", type=output_folder, required=True, help="folder for runs and tables"
    )
    parser.add_argument("--task", help="task definition (default: the schema's first)")
    parser.add_argument(
        "--seeds",
        type=at_least(1),
        default=3,
        metavar="N",
        help="runs of each rival (default: %(default)s)",
    )
    parser.add_argument(
        "--rivals", metavar="NAME,NAME", help="names of rivals, comma-separated (default: all)"
    )
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="maximum number of epochs of networks (default: that of each recipe)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the comparison, writes its tables and returns its result."""
    import_tensorflow()
    from tfrec_limaml.comparison.rivals import Data
    from tfrec_limaml.comparison.run import RIVALS, compare
    from tfrec_limaml.training.recipes import configure_tensorflow, require_binary

    configure_tensorflow()
    data = Data.of(args.tasks, args.task, args.epochs)
    require_binary(data.encoder.schema, "`limaml compare`")
    rivals = list(RIVALS) if args.rivals is None else args.rivals.split(",")
    names = [name.strip() for name in rivals]
    result = compare(data, args.output, range(1, args.seeds + 1), names, say)
    staging.write_text(args.output / "comparison.json", json.dumps(result, indent=1) + "\n")
    staging.write_text(args.output / "comparison.md", markdown(result) + "\n")
    write_comparison_page(args.output / "comparison.html", result)
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table of a comparison as Markdown."""
    lines = [
        _heading(result),
        "",
        "| | AUC | un-adapted | gain | log loss | calibration | GAUC | nDCG@10 | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["results"]:
        if "auc_mean" not in row:
            lines.append(f"| {row['name']} | {row.get('note', 'diverged')} | | | | | | | |")
            continue
        name = row["name"] if row["served"] else f"{row['name']} (cannot be stored)"
        spread = "" if row["auc_sd"] is None else f" ({row['auc_sd']:.4f})"
        unadapted, gauc = (
            "" if row[name] is None else f"{row[name]:.4f}" for name in ("auc_unadapted", "gauc")
        )
        lines.append(
            f"| {name} | {row['auc_mean']:.4f}{spread} | {unadapted} | {gain_text(row)} | "
            f"{row['log_loss']:.4f} | {row['calibration']:.3f} | {gauc} | "
            f"{row['ndcg_10']:.4f} | {row['seconds']:.0f} |"
        )
    for note in seed_notes(result):
        lines += ["", note]
    lines += _served_unadapted(result["results"])
    lines += _slices([row for row in result["results"] if "auc_mean" in row])
    return "\n".join(lines)


def _served_unadapted(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that name the rivals whose adaptation was switched off on the validation rows."""
    lines = []
    for row in rows:
        strengths = [s.get("adaptation_strength") for s in row.get("settings", ())]
        if off := strengths.count(0.0):
            runs = "in all runs" if off == len(strengths) else f"in {off} of {len(strengths)} runs"
            lines += [
                "",
                f"{row['name']} does not adapt {runs}: adapting gained nothing on the validation "
                "rows (adaptation strength 0).",
            ]
    return lines


def _heading(result: Mapping[str, Any]) -> str:
    """The sentence above the table that says what its numbers are."""
    deviation = " (standard deviation)" if len(result["seeds"]) > 1 else ""
    gain = f" (no gains: {result['reference']} is not among the rivals)"
    if any("gain" in row for row in result["results"]):
        gain = (
            f"; gain over {result['reference']} with its 95 % interval, paired by row and "
            "clustered by task"
        )
    return (
        f"Test AUC on {counted(result['rows'], 'row', spec=',')} of "
        f"{counted(result['tasks'], 'task', spec=',')}, "
        f"{mean_of_seeds(len(result['seeds']))}{deviation}{gain}."
    )


def _slices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table: the AUC of each rival by the number of samples in a task's history."""
    if not rows:
        return []
    columns = slices(rows)
    heads = [f"{name} ({counted(count, 'row', spec=',')})" for name, count in columns.items()]
    lines = [
        "",
        "Test AUC by the number of samples in the task's history:",
        "",
        f"| | {' | '.join(heads)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for row in rows:
        values = [slice_auc(row, name) for name in columns]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    if any(slice_auc(row, name) is None for row in rows for name in columns):
        lines += ["", "Empty: fewer than 30 tasks, or fewer than 10 rows of one class."]
    return lines


COMMAND = Command(
    help="compare LiMAML with LightGBM, plain networks and random effects",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=markdown,
)
