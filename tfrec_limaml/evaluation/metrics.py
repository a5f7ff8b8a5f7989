"""Exact metrics of scored rows, with confidence intervals, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def auc(label: Array, score: Array) -> float:
    """Area under the ROC curve (ties count half); NaN for one-class labels.

    Args:
        label: 0 or 1, ``[N]``.
        score: Any monotone score, ``[N]``.
    """
    return auc_interval(label, score)[0]


def auc_interval(label: Array, score: Array, z: float = 1.96) -> tuple[float, float, float]:
    """AUC with a confidence interval: ``(auc, low, high)``; NaNs for one-class labels.

    The variance is DeLong's (1988), from mid-ranks in O(N log N), and treats rows as independent.
    """
    positive, negative = score[label > 0.5], score[label <= 0.5]
    m, n = len(positive), len(negative)
    if not m or not n:
        return (float("nan"),) * 3
    wins_of_positive = (_midranks(np.concatenate([positive, negative]))[:m] - _midranks(positive)) / n
    wins_of_negative = 1.0 - (_midranks(np.concatenate([positive, negative]))[m:] - _midranks(negative)) / m
    value = float(wins_of_positive.mean())
    variance = (wins_of_positive.var(ddof=1) / m if m > 1 else 0.25) + (wins_of_negative.var(ddof=1) / n if n > 1 else 0.25)
    half = z * float(np.sqrt(variance))
    return value, max(value - half, 0.0), min(value + half, 1.0)


def log_loss(label: Array, probability: Array) -> float:
    """Mean binary cross-entropy, probabilities clipped at 1e-7."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))


def calibration(label: Array, probability: Array) -> float:
    """Expected over observed positives; 1 is calibrated, NaN without positives."""
    observed = float(label.sum())
    return float(probability.sum()) / observed if observed else float("nan")


def per_task_auc(task: Array, label: Array, score: Array) -> tuple[float, int]:
    """Mean AUC over the tasks that have both classes, and their number; NaN where there is none."""
    order = np.argsort(task, kind="stable")
    task, label, score = task[order], label[order], score[order]
    starts = np.flatnonzero(np.concatenate([[True], task[1:] != task[:-1]])) if len(task) else np.array([], int)
    values = [auc(y, s) for y, s in zip(np.split(label, starts[1:]), np.split(score, starts[1:]), strict=True)]
    known = [v for v in values if not np.isnan(v)]
    return (float(np.mean(known)) if known else float("nan")), len(known)


def _midranks(values: Array) -> Array:
    """1-based ranks, ties averaged."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered, "left")
    last = np.searchsorted(ordered, ordered, "right")
    ranks = np.empty(len(values))
    ranks[order] = (first + last + 1) / 2.0
    return ranks
