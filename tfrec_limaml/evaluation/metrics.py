"""Exact metrics of scored rows, with confidence intervals, in NumPy.

Metrics that depend on the order of scores raise `LimamlError` if a score is not a number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError

Z_95 = 1.96


class Interval(NamedTuple):
    """A value with its confidence interval; all NaN if undefined."""

    value: float
    low: float
    high: float


_UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))


def auc(label: Array, score: Array) -> float:
    """Area under the ROC curve (ties count half); NaN for one-class labels.

    Args:
        label: 0 or 1, ``[N]``.
        score: Any monotone score, ``[N]``.
    """
    positive = label > 0.5
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return float("nan")
    return float((_midranks(score)[positive].sum() - m * (m + 1) / 2) / (m * n))


def auc_interval(
    label: Array, score: Array, cluster: Array | None = None, z: float = Z_95
) -> Interval:
    """AUC with a confidence interval, from mid-ranks in O(N log N); NaNs for one-class labels.

    Rows of one task are not independent. With `cluster` the variance is that of clustered data: the
    structural components are summed within clusters first (Obuchowski, "Nonparametric Analysis of
    Clustered ROC Curve Data", Biometrics 1997). The interval is then usually wider. If each row is
    its own cluster, the variance is that of DeLong et al., "Comparing the Areas under Two or More
    Correlated Receiver Operating Characteristic Curves: A Nonparametric Approach", Biometrics 1988.

    Args:
        label: 0 or 1, ``[N]``.
        score: Any monotone score, ``[N]``.
        cluster: Cluster of each row, ``[N]``, for example its task; by default each row is its own
            cluster.
        z: Half of the interval's width, in standard errors; by default that of 95 %.
    """
    components = _components(label, score)
    if components is None:
        return _UNDEFINED
    value, deviation = components
    half = z * float(np.sqrt(_clustered_variance(label > 0.5, deviation, cluster)))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def auc_difference(
    label: Array, score: Array, reference: Array, cluster: Array | None = None, z: float = Z_95
) -> Interval:
    """AUC of `score` minus AUC of `reference` on the same rows, with a paired confidence interval.

    The interval is far narrower than two separate intervals suggest, because both models err on the
    same rows. Arguments and sources as in `auc_interval`.
    """
    components, reference_components = _components(label, score), _components(label, reference)
    if components is None or reference_components is None:
        return _UNDEFINED
    half = z * float(
        np.sqrt(_clustered_variance(label > 0.5, components[1] - reference_components[1], cluster))
    )
    value = components[0] - reference_components[0]
    return Interval(value, value - half, value + half)


def log_loss(label: Array, probability: Array, weight: Array | None = None) -> float:
    """Mean binary cross-entropy; a weighted mean with `weight`, ``[N]``.

    Probabilities are clipped to the range from 1e-7 to ``1 - 1e-7``.
    """
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -(label * np.log(p) + (1 - label) * np.log1p(-p))
    return float(np.average(losses, weights=weight))


def calibration(label: Array, probability: Array, weight: Array | None = None) -> float:
    """The sum of the probabilities over the sum of the labels.

    It is 1 for a calibrated model and above 1 if the model predicts too many positives; NaN without
    positive rows. Rows count by their `weight` ``[N]``, if it is given.
    """
    weight = np.ones(len(label)) if weight is None else weight
    observed = float((weight * label).sum())
    return float((weight * probability).sum()) / observed if observed else float("nan")


def calibration_curve(label: Array, probability: Array, bins: int = 10) -> list[dict[str, float]]:
    """Expected and observed positives in bins of equally many rows, by rising probability.

    Returns:
        For each non-empty bin: ``rows``, ``expected`` (mean probability) and ``observed``
        (mean label).
    """
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    return [
        {
            "rows": len(part),
            "expected": float(probability[part].mean(dtype=np.float64)),
            "observed": float(label[part].mean(dtype=np.float64)),
        }
        for part in parts
        if len(part)
    ]


def per_task_auc(task: Array, label: Array, score: Array) -> tuple[float, int]:
    """Mean AUC over the tasks that have both classes, and their number; NaN without such tasks.

    Args:
        task: Task of each row, ``[N]``.
        label: 0 or 1, ``[N]``.
        score: Any monotone score, ``[N]``.
    """
    values, _ = _auc_by_task(task, label, score)
    return (float(values.mean()) if len(values) else float("nan")), len(values)


def grouped_auc(task: Array, label: Array, score: Array) -> float:
    """GAUC: the mean AUC of the tasks that have both classes, weighted by their numbers of rows.

    NaN without such tasks. Arguments as in `per_task_auc`. Source: Zhu et al., "Optimized Cost per
    Click in Taobao Display Advertising", KDD 2017.
    """
    values, rows = _auc_by_task(task, label, score)
    return float(np.average(values, weights=rows)) if len(values) else float("nan")


def ndcg(task: Array, label: Array, score: Array, k: int = 10) -> float:
    """Mean normalised discounted cumulative gain at `k` over the tasks with a positive row.

    NaN without such tasks. Arguments as in `per_task_auc`. Ties keep the order of the rows. Source:
    Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002.
    """
    if not len(task):
        return float("nan")
    _require_numbers(score)
    codes = np.unique(task, return_inverse=True)[1]
    tasks = int(codes.max()) + 1

    def gain(by: Array) -> Array:
        order = np.lexsort((-by, codes))
        first = np.searchsorted(codes[order], np.arange(tasks))
        rank = np.arange(len(codes)) - first[codes[order]]
        discounted = np.where(rank < k, label[order] / np.log2(rank + 2), 0.0)
        return np.bincount(codes[order], discounted, tasks)

    best = gain(label)
    has_positive = best > 0
    return (
        float((gain(score)[has_positive] / best[has_positive]).mean())
        if has_positive.any()
        else float("nan")
    )


def _auc_by_task(task: Array, label: Array, score: Array) -> tuple[Array, Array]:
    """AUC of each task with both classes, and its number of rows."""
    if not len(task):
        return np.empty(0), np.empty(0)
    _require_numbers(score)
    codes = np.unique(task, return_inverse=True)[1]
    order = np.lexsort((score, codes))
    codes, positive, score = codes[order], label[order] > 0.5, score[order]
    new_task = np.concatenate([[True], codes[1:] != codes[:-1]])
    new_tie = new_task | np.concatenate([[True], score[1:] != score[:-1]])
    first = np.flatnonzero(new_tie)
    middle = (first + np.append(first[1:], len(codes)) - 1) / 2  # of each run of ties
    rank = middle[np.cumsum(new_tie) - 1] - np.flatnonzero(new_task)[codes] + 1
    m = np.bincount(codes, positive)
    n = np.bincount(codes) - m
    valid = (m > 0) & (n > 0)
    m, n, total = (
        m[valid],
        n[valid],
        np.bincount(codes, rank * positive)[valid],
    )
    return (total - m * (m + 1) / 2) / (m * n), m + n


def _components(label: Array, score: Array) -> tuple[float, Array] | None:
    """The AUC, and each row's share ``[N]`` of the other class that it beats, less the AUC.

    None for one-class labels.
    """
    positive = label > 0.5
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None
    ranks, wins = _midranks(score), np.empty(len(label))
    wins[positive] = (ranks[positive] - _midranks(score[positive])) / n
    wins[~positive] = 1.0 - (ranks[~positive] - _midranks(score[~positive])) / m
    value = float(wins[positive].mean())
    return value, wins - value


def _clustered_variance(positive: Array, deviation: Array, cluster: Array | None) -> float:
    """Obuchowski's variance of a mean of components whose deviations are given."""
    codes = (
        np.arange(len(positive)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    )
    size = int(codes.max()) + 1
    sums, variance = [], 0.0
    for rows in (positive, ~positive):
        total = np.bincount(codes, deviation * rows, size) / rows.sum()
        sums.append(total)
        clusters = len(np.unique(codes[rows]))
        # one cluster does not show the variance between clusters: assume the largest possible
        variance += (
            float(np.square(total).sum()) * clusters / (clusters - 1) if clusters > 1 else 0.25
        )
    if size > 1:
        variance += 2.0 * float((sums[0] * sums[1]).sum()) * size / (size - 1)
    return max(variance, 0.0)


def _require_numbers(scores: Array) -> None:
    """Raises `LimamlError` if a score is not a number."""
    if missing := int(np.count_nonzero(np.isnan(scores))):
        raise LimamlError(
            f"{missing} of {len(scores)} scores are not numbers (NaN): training has diverged, or "
            "features hold huge values; lower the learning rates, or check the features"
        )


def _midranks(values: Array) -> Array:
    """1-based ranks, ties averaged."""
    _require_numbers(values)
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    first = np.searchsorted(sorted_values, sorted_values, "left")
    last = np.searchsorted(sorted_values, sorted_values, "right")
    ranks = np.empty(len(values))
    ranks[order] = (first + last + 1) / 2.0
    return ranks
