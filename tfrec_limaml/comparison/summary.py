"""Summarises runs as one entry per rival: means over seeds, paired gains, slices by history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Array
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.evaluation.cohorts import history_slices
from tfrec_limaml.evaluation.evaluate import MIN_TASKS
from tfrec_limaml.evaluation.metrics import (
    Z_95,
    auc,
    auc_difference,
    calibration,
    grouped_auc,
    log_loss,
    ndcg,
    per_task_auc,
)

Run = Mapping[str, Any]
Pair = tuple[Run, Run]

#: Least number of rows of each class in a slice: the AUC of fewer means little.
MIN_CLASS_ROWS = 10
#: A run whose log loss is this many times that of the mean label has diverged.
DIVERGED = 2.0


def summarise(runs: Sequence[Run], rows: Rows, reference: str) -> list[dict[str, Any]]:
    """One entry per rival, in the order of the runs.

    All columns of a rival are of the seeds in which both the rival and the reference have usable
    scores. The one run of a rival without random numbers is compared with every run of the
    reference.

    Returns:
        Entries with ``name``, ``served`` (whether production could serve it), ``seeds``,
        ``auc_mean``, ``auc_sd`` (over seeds; None for one seed), ``auc_unadapted``, ``gain`` over
        the reference's mean AUC with its 95 % interval ``gain_low`` to ``gain_high`` (paired by
        row, clustered by task, including the variance over seeds; None with fewer than 30 tasks),
        ``log_loss`` and ``calibration`` (rows count by their weights), ``gauc`` (None with fewer
        than 30 tasks of both classes), ``ndcg_10``, ``slices`` (their AUC is None with fewer than
        30 tasks, or 10 rows of a class), ``seconds``; ``diverged`` seeds are listed and excluded;
        ``used_seeds``, if they are not all; a ``note`` gives the reason why a
        run has no scores. Without a common seed there is no ``gain``, and the other columns are of
        the rival's own seeds.
    """
    names = list(dict.fromkeys(run["name"] for run in runs))
    usable = {name: [r for r in runs if r["name"] == name and _usable(r, rows)] for name in names}
    base = usable.get(reference, [])
    entries = []
    for name in names:
        own_runs = [run for run in runs if run["name"] == name]
        entry: dict[str, Any] = {"name": name, "seeds": [run["seed"] for run in own_runs]}
        diverged = [r["seed"] for r in own_runs if "scores" in r and not _usable(r, rows)]
        if diverged:
            entry["diverged"] = diverged
        notes = {run["note"] for run in own_runs if "note" in run}
        if notes:
            entry["note"] = "; ".join(sorted(notes))
        if usable[name]:
            runs_used, pairs = _paired(usable[name], base, is_seedless=len(own_runs) == 1)
            if len(runs_used) < len(own_runs):
                entry["used_seeds"] = [run["seed"] for run in runs_used]
            entry |= _measure(runs_used, rows) | paired_gain(pairs, rows)
        entries.append(entry)
    return entries


def _paired(runs: list[Run], base: list[Run], is_seedless: bool) -> tuple[list[Run], list[Pair]]:
    """The runs that are summarised, and their pairs with runs of the reference."""
    pairs = [(runs[0], other) for other in base] if is_seedless else same_seeds(runs, base)
    common = [run for run in runs if is_seedless or any(run is own for own, _ in pairs)]
    return common or runs, pairs


def same_seeds(runs: Sequence[Run], base: Sequence[Run]) -> list[Pair]:
    """Pairs of runs, for each seed that both have."""
    by_seed = {run["seed"]: run for run in base}
    return [(run, by_seed[run["seed"]]) for run in runs if run["seed"] in by_seed]


def _usable(run: Run, rows: Rows) -> bool:
    if "scores" not in run or not np.isfinite(run["scores"]).all():
        return False
    mean = np.full(len(rows.label), np.average(rows.label, weights=rows.weight))
    limit = DIVERGED * log_loss(rows.label, mean, rows.weight)
    return log_loss(rows.label, run["scores"], rows.weight) < limit


def _measure(runs: list[Run], rows: Rows) -> dict[str, Any]:
    aucs = [auc(rows.label, run["scores"]) for run in runs]
    unadapted = [auc(rows.label, r["unadapted"]) for r in runs if "unadapted" in r]
    entry: dict[str, Any] = {
        "served": bool(runs[0]["served"]),
        "val_auc_mean": float(np.mean([run["val_auc"] for run in runs])),
        "auc_mean": float(np.mean(aucs)),
        "auc_sd": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "auc_unadapted": float(np.mean(unadapted)) if unadapted else None,
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "settings": [run["settings"] for run in runs],
    }
    for name, measure in (("log_loss", log_loss), ("calibration", calibration)):
        entry[name] = float(np.mean([measure(rows.label, r["scores"], rows.weight) for r in runs]))
    for name, metric in (("gauc", grouped_auc), ("ndcg_10", ndcg)):
        entry[name] = float(np.mean([metric(rows.task, rows.label, r["scores"]) for r in runs]))
    if per_task_auc(rows.task, rows.label, runs[0]["scores"])[1] < MIN_TASKS:
        entry["gauc"] = None
    entry["slices"] = [
        {
            "slice": name,
            "rows": int(mask.sum()),
            "auc": _slice_auc(runs, rows, mask),
        }
        for name, mask in history_slices(rows.history)
    ]
    return entry


def _slice_auc(runs: list[Run], rows: Rows, mask: Array) -> float | None:
    """The mean AUC of some rows; None if they are of too few tasks, or too few of one class."""
    positives = int((rows.label[mask] > 0.5).sum())
    few = min(positives, int(mask.sum()) - positives) < MIN_CLASS_ROWS
    if few or len(np.unique(rows.task[mask])) < MIN_TASKS:
        return None
    return float(np.mean([auc(rows.label[mask], r["scores"][mask]) for r in runs]))


def paired_gain(pairs: Sequence[Pair], rows: Rows) -> dict[str, Any]:
    """The mean gain; its variance is that of the mean over seeds plus that of the rows.

    Args:
        pairs: Runs, each with the run of the reference that it is compared with.
        rows: The rows that all of them scored.

    Returns:
        ``gain``, ``gain_low`` and ``gain_high`` in AUC; nothing without pairs.
    """
    if not pairs:
        return {}
    gains = [
        auc_difference(rows.label, run["scores"], other["scores"], rows.task)
        for run, other in pairs
    ]
    values = [gain.value for gain in gains]
    of_rows = float(np.mean([((g.high - g.value) / Z_95) ** 2 for g in gains]))
    of_seeds = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    value, half = float(np.mean(values)), Z_95 * math.sqrt(of_rows + of_seeds)
    if len(np.unique(rows.task)) < MIN_TASKS:
        return {"gain": value, "gain_low": None, "gain_high": None}
    return {"gain": value, "gain_low": value - half, "gain_high": value + half}
