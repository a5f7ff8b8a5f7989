"""Whole numbers whose order says little about the label: they identify things."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: Minimum number of rows of a value, and of such values.
_ROWS_PER_VALUE, _VALUES = 20, 20
#: Groups of neighbouring values, about as many as the bins of `encoding: quantiles`.
_GROUPS = 16
#: Standard deviations by which the variation within the groups must exceed chance.
_DEVIATIONS = 6.0


def is_unordered(numbers: pd.Series, label: pd.Series, task: pd.Series) -> bool:
    """Whether the mean label differs more within groups of neighbouring values than between them.

    An analysis of variance of the label, less the mean of the row's task: between 16 groups of
    neighbouring values with about the same number of rows each, and between the values of a group.
    If the label follows the order of the numbers, as with an age, values of one group have about
    the same mean label.

    Args:
        numbers: The column ``[N]``; NaN where there is none.
        label: Labels ``[N]``; NaN where there is none.
        task: Task keys ``[N]``.
    """
    frame = pd.DataFrame({"value": numbers, "label": label.astype("float64"), "task": task})
    frame = frame.dropna()
    frame = frame[frame.groupby("value")["value"].transform("size") >= _ROWS_PER_VALUE]
    if frame["value"].nunique() < _VALUES:
        return False
    effect = frame["label"] - frame.groupby("task")["label"].transform("mean")
    order = frame["value"].rank(method="dense").astype(int) - 1
    group = np.floor((frame["value"].rank(method="min") - 1) * _GROUPS / len(frame)).astype(int)
    by_value, by_group = effect.groupby(order), effect.groupby(group)
    all_values = _sum_of_squares(by_value) - effect.sum() ** 2 / len(effect)
    between = _sum_of_squares(by_group) - effect.sum() ** 2 / len(effect)
    groups, values = by_group.ngroups - 1, by_value.ngroups - by_group.ngroups
    chance = ((effect**2).sum() - _sum_of_squares(by_value)) / (len(effect) - by_value.ngroups)
    excess_within = all_values - between - values * chance
    excess_between = between - groups * chance
    is_significant = excess_within > _DEVIATIONS * chance * np.sqrt(2 * values)
    return bool(is_significant and excess_within > excess_between)


def is_dense(numbers: pd.Series) -> bool:
    """Whether whole numbers have at least half of the values between the first and the last one."""
    values = numbers.dropna()
    return bool(values.nunique() > (values.max() - values.min()) / 2)


def _sum_of_squares(groups: pd.core.groupby.SeriesGroupBy) -> float:
    """Sum over the groups of the square of their sums over their sizes."""
    return float((groups.sum() ** 2 / groups.size()).sum())
