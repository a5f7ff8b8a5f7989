"""Summarises runs as lines of a table: gains in per cent, by slice, and the orderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Mask
from tfrec_limaml.comparison.rivals import Data
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.comparison.summary import paired_gain, same_seeds
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.cohorts import paper_slices
from tfrec_limaml.evaluation.evaluate import MIN_TASKS
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.reproduction.table import EQUAL, Line, Ordering, Table
from tfrec_limaml.schema.columns import DAY_MS

Run = Mapping[str, Any]

#: A task without rows for longer before its first test row is dormant.
DORMANT_DAYS = 7.0
#: A task with fewer earlier samples is occasional.
OCCASIONAL = 6


def summarise(
    table: Table, runs: Mapping[str, Sequence[Run]], data: Mapping[str | None, Data]
) -> dict[str, Any]:
    """The result of a table.

    Args:
        table: The experiment.
        runs: Runs over the seeds, by the name of their setup.
        data: The rows that were scored, by task definition.

    Returns:
        JSON types: ``lines`` (``label``, ``auc_mean``, ``auc_sd``, ``val_auc_mean``, ``slices``
        with ``rows``, ``tasks``, ``gain``, ``gain_sd``, ``gain_low``, ``gain_high`` and the
        ``paper``'s gain, all in per cent of the reference's AUC, and ``time``, training time in per
        cent relative to the reference), ``orderings`` with whether each ``holds``, or its lines are
        ``equal``. A slice is ``equal`` to that of the reference if
        rounding explains its gain.
    """
    by_label = {line.label: line for line in table.lines}
    lines = []
    for line in table.lines:
        base = by_label[line.reference or table.reference]
        if base.setup.task != line.setup.task:
            raise LimamlError(
                f"{table.name}: {line.label!r} and {base.label!r} score the rows of different task "
                "definitions and cannot be paired"
            )
        lines.append(_line(table, line, base, runs, data[line.setup.task]))
    return {
        "name": table.name,
        "title": table.title,
        "text": table.text,
        "reference": table.reference,
        "seeds": len(runs[table.lines[0].setup.name]),
        "lines": lines,
        "orderings": [_ordering(ordering, lines) for ordering in table.orderings],
    }


def _line(
    table: Table, line: Line, base: Line, runs: Mapping[str, Sequence[Run]], data: Data
) -> dict[str, Any]:
    line_runs, base_runs = runs[line.setup.name], runs[base.setup.name]
    notes = sorted({str(run["note"]) for run in (*line_runs, *base_runs) if "note" in run})
    entry: dict[str, Any] = {"label": line.label, "paper_time": line.paper_time}
    if notes:
        return {**entry, "note": "; ".join(notes), "slices": []}
    aucs = [auc(data.test.label, run["scores"]) for run in line_runs]
    seconds = [
        100 * (run["settings"]["epoch_seconds"] / other["settings"]["epoch_seconds"] - 1)
        for run, other in zip(line_runs, base_runs, strict=True)
    ]
    return {
        **entry,
        "auc_mean": float(np.mean(aucs)),
        "auc_sd": _deviation(aucs),
        "val_auc_mean": float(np.mean([run["val_auc"] for run in line_runs])),
        "time": float(np.mean(seconds)),
        "slices": [
            {
                "slice": name,
                "paper": line.paper.get(name),
                **(gain := _gain(line_runs, base_runs, data.test, mask)),
                "equal": line is not base and _is_rounding(gain),
            }
            for name, mask in masks(table.slices, data)
            if len(np.unique(data.test.label[mask])) > 1
            and len(np.unique(data.test.task[mask])) >= MIN_TASKS
        ],
    }


def _gain(
    line_runs: Sequence[Run], base_runs: Sequence[Run], rows: Rows, mask: Mask
) -> dict[str, Any]:
    """The gain on some rows, in per cent of the reference's AUC."""
    part = dataclasses.replace(rows, label=rows.label[mask], task=rows.task[mask])
    line_part, base_part = (
        [{"seed": run["seed"], "scores": run["scores"][mask]} for run in runs]
        for runs in (line_runs, base_runs)
    )
    values = [
        (auc(part.label, a["scores"]), auc(part.label, b["scores"]))
        for a, b in zip(line_part, base_part, strict=True)
    ]
    reference_auc = float(np.mean([b for _, b in values]))
    gains = paired_gain(same_seeds(line_part, base_part), part)
    gain = {name: 100 * value / reference_auc for name, value in gains.items()}
    return {
        "rows": int(mask.sum()),
        "tasks": len(np.unique(part.task)),
        **gain,
        "gain_sd": _deviation([100 * (a / b - 1) for a, b in values]),
    }


def _is_rounding(gain: Mapping[str, Any]) -> bool:
    return all(abs(gain[name]) <= EQUAL for name in ("gain", "gain_low", "gain_high", "gain_sd"))


def masks(kind: str, data: Data) -> list[tuple[str, Mask]]:
    """Names and rows of the slices."""
    rows = data.test
    named_masks = [("all", np.ones(len(rows.label), bool))]
    if kind == "paper":
        named_masks += paper_slices(rows.task)
    elif kind == "cohorts":
        new = ~np.isin(rows.task_key, np.unique(data.train.task_key))
        first = np.full(int(rows.task.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, rows.task, rows.timestamp)
        silent = (first[rows.task] - rows.last_seen) > DORMANT_DAYS * DAY_MS
        dormant = ~new & (rows.history > 0) & silent
        active = ~new & ~dormant
        is_occasional = rows.history < OCCASIONAL
        named_masks += [
            ("new", new),
            ("dormant", dormant),
            ("occasional", active & is_occasional),
            ("frequent", active & ~is_occasional),
        ]
    return [(name, mask) for name, mask in named_masks if mask.any()]


def _ordering(ordering: Ordering, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_label = {line["label"]: line for line in lines}
    values = [_value(by_label.get(label), ordering) for label in (ordering.more, ordering.less)]
    entry: dict[str, Any] = dataclasses.asdict(ordering)
    if None in values:
        return {**entry, "holds": None, "equal": None, "difference": None}
    more, less = values
    assert more is not None
    assert less is not None
    difference = more - less
    equal = not ordering.time and abs(difference) <= EQUAL
    holds = difference > 0 and not equal
    return {**entry, "holds": holds, "equal": equal, "difference": difference}


def _value(line: Mapping[str, Any] | None, ordering: Ordering) -> float | None:
    if line is None or "auc_mean" not in line:
        return None
    if ordering.time:
        return float(line["time"])
    return next((float(s["gain"]) for s in line["slices"] if s["slice"] == ordering.slice), None)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
