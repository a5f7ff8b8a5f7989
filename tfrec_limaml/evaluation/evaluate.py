"""Scores held-out tasks and measures the result overall and by cohort."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Array
from tfrec_limaml.evaluation.checked_rows import checked_rows
from tfrec_limaml.evaluation.cohorts import HISTORY_BOUNDS, Rows, cohorts, history_slices
from tfrec_limaml.evaluation.metrics import (
    auc,
    auc_difference,
    auc_interval,
    calibration,
    calibration_curve,
    log_loss,
    per_task_auc,
)

#: Slices with fewer tasks get a note: their metrics are noisy.
MIN_TASKS = 30


class Uninformative(UserWarning):
    """A metric is undefined, or too noisy to rely on."""


def uninformative(result: Mapping[str, Any]) -> list[str]:
    """Warnings about overall metrics of a result of `measure` that carry no information."""
    metrics = {"note": "AUC", "per_task_note": "AUC within tasks"}
    return [
        f"{metric} is not informative here: {result[name]}"
        for name, metric in metrics.items()
        if name in result
    ]


def measure(
    rows: Rows,
    bounds: Sequence[int] = HISTORY_BOUNDS,
    *,
    reference: Array | None = None,
    trained_keys: Collection[bytes] | None = None,
    dormant_days: float = 7.0,
) -> dict[str, Any]:
    """Metrics of scored rows, overall, by length of history and by cohort.

    Args:
        rows: Arrays or lists ``[N]``: ``probability``, ``label`` (0 or 1), ``history`` (samples in
            the support set), ``task_key`` (of one type), and for the dormant cohort ``timestamp``
            and ``last_seen`` (ms since 1970, or ``datetime64``). Other columns are not read.
        bounds: Lower bounds of the slices by history.
        reference: Another model's probabilities ``[N]`` of the same rows, to report the gain over.
        trained_keys: See `cohorts`; of the type of ``task_key``.
        dormant_days: See `cohorts`.

    Returns:
        ``rows``, ``tasks``, ``auc`` with ``auc_low`` and ``auc_high`` (95 %, clustered by task),
        ``log_loss``, ``calibration``, ``calibration_curve``, ``per_task_auc`` over
        ``per_task_auc_tasks`` tasks, with a `reference` also ``gain``, ``gain_low`` and
        ``gain_high`` in AUC; ``slices`` by history and ``cohorts``: lists of some of these, each
        with its name under ``slice``. Undefined metrics are NaN, or have a ``note``; for overall
        metrics there is also a warning.

    Raises:
        LimamlError: There are no rows, or a column is missing, has another form or length than it
            must, or an impossible value, such as a logit in place of a probability.
    """
    trained_keys = None if trained_keys is None else set(trained_keys)
    rows = checked_rows(rows, reference, trained_keys)
    codes = np.unique(rows["task_key"], return_inverse=True)[1]
    columns = {"label": rows["label"], "probability": rows["probability"], "task": codes}
    if reference is not None:
        columns["reference"] = rows["reference"]
    result = _measure_rows(columns)
    task_auc, tasks = per_task_auc(codes, rows["label"], rows["probability"])
    if tasks < MIN_TASKS:
        result["per_task_note"] = f"fewer than {MIN_TASKS} tasks have rows of both classes"
    for text in uninformative(result):
        warnings.warn(text, Uninformative, stacklevel=2)

    def part(name: str, mask: Array) -> dict[str, Any]:
        return {
            "slice": name,
            **_measure_rows({column: values[mask] for column, values in columns.items()}),
        }

    groups = cohorts(rows, trained_keys, dormant_days)
    return {
        **result,
        "log_loss": log_loss(rows["label"], rows["probability"]),
        "calibration": calibration(rows["label"], rows["probability"]),
        "calibration_curve": calibration_curve(rows["label"], rows["probability"]),
        "per_task_auc": task_auc,
        "per_task_auc_tasks": tasks,
        "slices": [part(name, mask) for name, mask in history_slices(rows["history"], bounds)],
        "cohorts": [part(name, mask) for name, mask in groups if mask.any()],
    }


def bayes_auc(rows: Rows) -> float | None:
    """The best possible AUC, if the data have each row's true probability."""
    column = "bayes_probability"
    return auc(rows["label"], rows[column]) if column in rows else None


def _measure_rows(columns: Rows) -> dict[str, Any]:
    label, score, task = columns["label"], columns["probability"], columns["task"]
    value, low, high = auc_interval(label, score, task)
    tasks = len(np.unique(task))
    result: dict[str, Any] = {
        "rows": len(label),
        "tasks": tasks,
        "auc": value,
        "auc_low": low,
        "auc_high": high,
    }
    if "reference" in columns:
        result["gain"], result["gain_low"], result["gain_high"] = auc_difference(
            label, score, columns["reference"], task
        )
    if np.isnan(value):
        result["note"] = f"all {len(label)} labels are of one class"
    elif tasks < MIN_TASKS:
        result["note"] = f"fewer than {MIN_TASKS} tasks"
    return result
