"""Scores held-out tasks and measures the result overall and by cohort."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.evaluation.metrics import auc, auc_interval, calibration, log_loss, per_task_auc
from tfrec_limaml.models import TaskModel

Rows = Mapping[str, npt.NDArray[Any]]

#: Lower bounds of the slices by samples in the support set; 25 is the paper's.
HISTORY_BOUNDS = (0, 1, 3, 6, 12, 25)
#: Fewer tasks than this in a slice make its metrics noise.
FEW_TASKS = 30


def evaluate_tasks(model: TaskModel, dataset: tf.data.Dataset, fine_tune: bool, verbose: int = 0) -> dict[str, Any]:
    """Predicts the query rows of a dataset (made with ``with_keys=True``) and measures them.

    Args:
        model: A trained model; its `fine_tune` is left as it was.
        dataset: Tasks with keys.
        fine_tune: Whether to adapt on each task's support set first.
        verbose: Of `predict`.

    Returns:
        The entries of one row of ``evaluation.json``: see `measure`.
    """
    before = model.fine_tune
    model.fine_tune = fine_tune
    try:
        rows = model.predict(dataset, verbose=verbose)
    finally:
        model.fine_tune = before
    return measure(rows)


def measure(rows: Rows, bounds: Sequence[int] = HISTORY_BOUNDS) -> dict[str, Any]:
    """Metrics of scored rows, overall and by length of history.

    Args:
        rows: Arrays ``[N]``: ``probability``, ``label``, ``history``, ``task_key``.
        bounds: Lower bounds of the slices by history.

    Returns:
        ``auc`` with ``auc_low`` and ``auc_high``, ``log_loss``, ``calibration``, ``per_task_auc`` over ``per_task_auc_tasks`` tasks, and
        ``slices``, a list of the same by cohort.
    """
    label, score = rows["label"], rows["probability"]
    value, low, high = auc_interval(label, score)
    if np.isnan(value):
        warnings.warn(f"AUC is undefined: all {len(label)} labels are of one class", stacklevel=2)
    within, tasks = per_task_auc(rows["task_key"], label, score)
    slices = []
    for lower, upper in zip(bounds, [*bounds[1:], None], strict=True):
        inside = (rows["history"] >= lower) & (rows["history"] < (np.inf if upper is None else upper))
        if inside.any():
            slices.append(_slice(_slice_name(lower, upper), {name: values[inside] for name, values in rows.items()}))
    return {
        "auc": value,
        "auc_low": low,
        "auc_high": high,
        "log_loss": log_loss(label, score),
        "calibration": calibration(label, score),
        "per_task_auc": within,
        "per_task_auc_tasks": tasks,
        "slices": slices,
    }


def bayes_auc(rows: Rows, column: str = "bayes_probability") -> float | None:
    """The best possible AUC, where the data carry each row's true probability."""
    return auc(rows["label"], rows[column]) if column in rows else None


def _slice(name: str, rows: Rows) -> dict[str, Any]:
    value, low, high = auc_interval(rows["label"], rows["probability"])
    tasks = len(np.unique(rows["task_key"]))
    result = {"slice": name, "rows": len(rows["label"]), "tasks": tasks, "auc": value, "auc_low": low, "auc_high": high}
    if tasks < FEW_TASKS or np.isnan(value):
        result["note"] = "one class" if np.isnan(value) else f"fewer than {FEW_TASKS} tasks"
    return result


def _slice_name(lower: int, upper: int | None) -> str:
    if upper is None:
        return f"{lower}+"
    return str(lower) if upper == lower + 1 else f"{lower}-{upper - 1}"
