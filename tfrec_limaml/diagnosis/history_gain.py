"""Measures what tasks' histories predict about their later rows, beyond a model's features.

A task's effect is estimated from its earlier rows alone: the mode of a normal prior and the
earlier rows' likelihood, around the model's logits. The gain is the change in AUC when it is added
to the logits of the task's later rows.

The spread of later rows themselves (`tfrec_limaml.diagnosis.random_intercept`) does not answer this
question. Later rows of a task may resemble each other although history predicts nothing more: the
history features already contain its information, and the remaining level of the task is uncertainty
that history does not resolve, or short-lived.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from tfrec_limaml.arrays import Array
from tfrec_limaml.diagnosis.random_intercept import sigmoid
from tfrec_limaml.evaluation.metrics import Interval, auc_difference

#: Candidate prior deviations of effects, in logits.
DEVIATIONS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
_STEPS = 15
#: Smallest curvature of a row's loss in a Newton step: rows with confident predictions would
#: otherwise allow steps far beyond the optimum.
_MINIMUM_CURVATURE = 0.05


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows ``[N]`` of tasks, earlier (history) and later ones.

    Attributes:
        label: 0 or 1.
        offset: Calibrated logits of a model without knowledge of the tasks.
        task: Integer codes.
        later: Whether a row is to be predicted.
    """

    label: Array
    offset: Array
    task: Array
    later: Array

    def with_effect(self, effect: Array) -> Rows:
        """The rows with `effect` added to their logits."""
        return dataclasses.replace(self, offset=self.offset + effect)


@dataclasses.dataclass(frozen=True)
class HistoryGain:
    """The gain in AUC on later rows from effects estimated on earlier ones.

    Attributes:
        value: The gain.
        low: Lower end of its interval, with rows clustered by task.
        high: The highest upper end under any of the candidates, such as `DEVIATIONS`.
        effect: The effect added to each row's logit, ``[N]``, also for earlier rows.
    """

    value: float
    low: float
    high: float
    effect: Array


def history_gain(
    rows: Rows,
    row: Array | None = None,
    group: Array | None = None,
    confidence: float = 0.95,
) -> HistoryGain:
    """Measures the gain from effects of groups of rows.

    The prior's deviation is the one of `DEVIATIONS` that predicts the later rows of other tasks
    best (two halves of the tasks), so nothing is fitted to the measured rows.

    Args:
        rows: Earlier and later rows.
        row: Index of a row for each of ``[M]`` memberships; a row may belong to several groups, and
            gets their mean effect. Every row belongs to its task by default.
        group: Integer codes ``[M]`` of the groups; no group spans more than one task.
        confidence: Confidence level of the interval.
    """
    row = np.arange(len(rows.task)) if row is None else row
    group = rows.task if group is None else group
    return best_effect(rows, [_effects(rows, row, group, tau) for tau in DEVIATIONS], confidence)


def best_effect(rows: Rows, effects: Sequence[Array], confidence: float) -> HistoryGain:
    """The gain from the best of several effects; which one is chosen on *other* tasks' later rows.

    Args:
        rows: Earlier and later rows ``[N]``, or later ones alone.
        effects: Candidates, each ``[N]``; the first one is zero.
        confidence: Confidence level of the interval.
    """
    half = _halves(rows.task)
    effect_of_row = np.zeros(len(rows.task))
    for half_mask in (half, ~half):
        other_half = rows.later & ~half_mask
        likelihoods = [_log_likelihood(rows, effect, other_half) for effect in effects]
        effect_of_row = np.where(half_mask, effects[int(np.argmax(likelihoods))], effect_of_row)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    gain = _gain(rows, effect_of_row, z)
    high = max(gain.high, *(_gain(rows, effect, z).high for effect in effects[1:]))
    return HistoryGain(float(gain.value), float(gain.low), float(high), effect_of_row)


def _gain(rows: Rows, effect: Array, z: float) -> Interval:
    later = rows.later
    after, before = (rows.offset + effect)[later], rows.offset[later]
    return auc_difference(rows.label[later], after, before, rows.task[later], z)


def _effects(rows: Rows, row: Array, group: Array, tau: float) -> Array:
    """The most likely effects ``[N]`` given the earlier rows of each group.

    Effects have a normal prior with deviation `tau`.
    """
    if not tau:
        return np.zeros(len(rows.task))
    share = 1.0 / np.maximum(np.bincount(row, minlength=len(rows.task)), 1)[row]
    size = int(group.max()) + 1
    earlier = ~rows.later[row]
    code, weight, of_row = group[earlier], share[earlier], row[earlier]
    label, offset = rows.label[of_row], rows.offset[of_row]
    effect = np.zeros(size)
    for _ in range(_STEPS):  # damped Newton steps: the curvature is at most 1 / 4 per row
        p = sigmoid(offset + effect[code])
        slope = np.bincount(code, weight * (label - p), size) - effect / tau**2
        of_rows = weight * np.maximum(p * (1 - p), _MINIMUM_CURVATURE)
        curvature = np.bincount(code, of_rows, size) + 1 / tau**2
        effect = effect + slope / curvature
    return np.bincount(row, share * effect[group], len(rows.task))


def _log_likelihood(rows: Rows, effect: Array, mask: Array) -> float:
    sign = np.where(rows.label[mask] > 0.5, 1.0, -1.0)
    return float(-np.logaddexp(0, -sign * (rows.offset + effect)[mask]).sum())


def _halves(task: Array) -> Array:
    """Marks the rows of a random half of the tasks, always the same one."""
    return np.asarray((np.random.default_rng(0).random(int(task.max()) + 1) < 0.5)[task])
