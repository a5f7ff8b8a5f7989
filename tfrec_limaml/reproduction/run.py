"""Runs tables, and writes their results: JSON, JSON lines and Markdown."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml import staging
from tfrec_limaml.comparison.rivals import Data
from tfrec_limaml.comparison.run import run_all
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.evaluate import MIN_TASKS
from tfrec_limaml.report.tables_page import ordering_sentence
from tfrec_limaml.reproduction.setups import Setup, Trainer
from tfrec_limaml.reproduction.summary import summarise
from tfrec_limaml.reproduction.table import EQUAL, Table
from tfrec_limaml.wording import counted

Progress = Callable[[str], None]


def run_table(
    table: Table,
    tasks: str | Path,
    output: str | Path,
    seeds: Sequence[int],
    epochs: int | None = None,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Runs one table and writes ``<name>.json`` and ``<name>.md`` to `output`.

    Finished runs are not repeated.

    Args:
        table: The experiment.
        tasks: Folder of task records.
        output: Folder for results and runs, by kind of task records.
        seeds: One run of each line per seed.
        epochs: Maximum; None for those of the recipes.
        progress: Called with a line for each run that starts.

    Returns:
        See `tfrec_limaml.reproduction.summary.summarise`.
    """
    setups = list({line.setup.name: line.setup for line in table.lines}.values())
    data = {task: Data.of(tasks, task, epochs) for task in {setup.task for setup in setups}}
    for each in data.values():
        _require_tasks(each)
    trainer = Trainer()
    runs: dict[str, list[dict[str, Any]]] = {setup.name: [] for setup in setups}
    folder = Path(output) / "runs" / table.records
    for seed in seeds:
        for setup in sorted(setups, key=_training):
            rival = {setup.name: functools.partial(trainer.run, setup)}
            progress_of_line = functools.partial(_report_progress, progress, table, setup)
            scored = data[setup.task]
            runs[setup.name] += run_all(
                scored, folder, [(setup.name, seed)], rival, progress_of_line
            )
    result = summarise(table, runs, data)
    folder = Path(output)
    staging.write_text(folder / f"{table.name}.json", json.dumps(result, indent=1) + "\n")
    staging.write_text(folder / f"{table.name}.md", markdown(result) + "\n")
    _write_runs(folder / f"{table.name}.runs.jsonl", table, runs)
    return result


def _require_tasks(data: Data) -> None:
    """Raises `LimamlError` if the test rows are of too few tasks for intervals."""
    tasks = len(np.unique(data.test.task))
    if tasks < MIN_TASKS:
        raise LimamlError(
            f"the test rows of {data.tasks} are of {counted(tasks, 'task')}; the intervals of the "
            f"tables need {MIN_TASKS}"
        )


def _training(setup: Setup) -> str:
    """A sort key that puts setups with the same training next to each other."""
    return repr((setup.options, setup.task, setup.replicas))


def _report_progress(progress: Progress, table: Table, setup: Setup, text: str) -> None:
    label = next(line.label for line in table.lines if line.setup == setup)
    progress(f"{table.name}, {label}: {text.split('] ', 1)[-1].replace(setup.name, 'training')}")


def _write_runs(path: Path, table: Table, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line per run, without scores."""
    lines = [
        json.dumps(
            {"label": line.label}
            | {k: v for k, v in run.items() if k not in ("scores", "unadapted", "name")}
        )
        for line in table.lines
        for run in runs[line.setup.name]
    ]
    staging.write_text(path, "\n".join(lines) + "\n")


def markdown(result: Mapping[str, Any]) -> str:
    """A table as Markdown: the paper's figures beside ours."""
    spread = result["seeds"] > 1  # one seed has no standard deviation
    averaging = f"mean of {result['seeds']} seeds (standard deviation)" if spread else "one seed"
    sd = " (sd)" if spread else ""
    lines = [
        f"### {result['name']}: {result['title']}",
        "",
        f"{result['text']} Gains are per cent of test AUC over *{result['reference']}*, "
        f"{averaging}, with the 95 % interval, paired by row and clustered by task; time is that "
        "of the training part of an epoch, in per cent relative to the reference. A difference "
        f"of at most {EQUAL / 100:g} in AUC is rounding: the lines are equal.",
        "",
        f"| | rows | paper | gain{sd} | interval | AUC{sd} "
        "| validation AUC | paper's time | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in result["lines"]:
        if "note" in line:
            lines.append(f"| {line['label']} | {line['note']} | | | | | | | |")
        lines += [_row(line, part, spread) for part in line["slices"]]
    for ordering in result["orderings"]:
        lines += ["", f"- {ordering_sentence(ordering)}"]
    return "\n".join(lines)


def _row(line: Mapping[str, Any], part: Mapping[str, Any], spread: bool) -> str:
    def with_spread(value: str, deviation: str) -> str:
        return f"{value} ({deviation})" if spread else value

    is_all = part["slice"] == "all"
    label = line["label"] if is_all else f"{line['label']}: {part['slice']}"
    gain = [
        with_spread(f"{part['gain']:+.2f}", f"{part['gain_sd']:.2f}"),
        f"{part['gain_low']:+.2f} to {part['gain_high']:+.2f}",
    ]
    cells = [
        label,
        f"{part['rows']:,} of {counted(part['tasks'], 'task', spec=',')}",
        _percent(part["paper"]),
        *(["equal", ""] if part["equal"] else gain),
        with_spread(f"{line['auc_mean']:.4f}", f"{line['auc_sd']:.4f}") if is_all else "",
        f"{line['val_auc_mean']:.4f}" if is_all else "",
        _percent(line["paper_time"]) if is_all else "",
        f"{line['time']:+.0f}" if is_all else "",
    ]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def failed(result: Mapping[str, Any]) -> list[str]:
    """The robust orderings of a table that do not hold."""
    return [
        f"{result['name']}: {ordering_sentence(ordering)}"
        for ordering in result["orderings"]
        if ordering["robust"] and ordering["holds"] is not True
    ]
