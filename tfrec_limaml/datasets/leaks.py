"""Finds columns that give the label away: values that are known only afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.column_shapes import is_vector

#: A single feature that ranks the label this well is almost certainly known only afterwards.
_TOO_GOOD = 0.95
#: Minimum number of rows per value from which the mean label of a value is not chance.
_ROWS_PER_VALUE = 20
#: Least share of the rows of one label that a value has; least number of rows, in proportion to the
#: label's share, but not below `_FEW_ROWS`; and the probability below which it is not chance that
#: all of them have the label.
_FREQUENT, _FREQUENT_ROWS, _FEW_ROWS, _CHANCE = 0.05, 200, 20, 1e-6


def _area(values: np.ndarray, positive: np.ndarray) -> float:
    """AUC of values against a mask, the better of both directions; 0.5 without both classes."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return 0.5
    ranks = pd.Series(values).rank().to_numpy()
    area = (ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(area, 1 - area))


def _ranking(values: pd.Series, label: pd.Series) -> float:
    """How well a column ranks the label, from 0.5 to 1: an AUC if one of them has two values.

    Otherwise it follows from the rank correlation.
    """
    valid = (values.notna() & label.notna()).to_numpy()
    x, y = values[valid].astype("float64").to_numpy(), label[valid].astype("float64").to_numpy()
    if len(np.unique(y)) == 2:
        return _area(x, y == y.max())
    if len(np.unique(x)) == 2:
        return _area(y, x == x.max())
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return 0.5
    correlation = np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]
    return float((1 + abs(correlation)) / 2)


def leak_remark(series: pd.Series, numbers: pd.Series | None, label: pd.Series) -> str:
    """Why a column gives the label away, or "".

    Text is examined by the mean label of each value if there are few values, and every column by
    whether it has a value.
    """
    target = columns.to_float32(label)[0]
    if numbers is None and series.nunique() <= len(series) / _ROWS_PER_VALUE:
        numbers = series.map(target.groupby(series).mean()).astype("float64")
    rank = 0.5 if numbers is None else _ranking(numbers, target)
    if rank > _TOO_GOOD:
        return f"alone ranks {label.name} with AUC {rank:.3f}; is it known only afterwards?"
    rank = _ranking(series.notna().astype("float64"), target)
    if rank > _TOO_GOOD:
        return (
            f"has a value only with certain values of {label.name} (AUC {rank:.3f}); is it known "
            "only afterwards?"
        )
    return ""


def one_label_remark(series: pd.Series, label: pd.Series) -> str:
    """A remark on a frequent value with which the label has one value only, or "".

    Such a value may be known only afterwards: what was not opened was not clicked. A rare label
    needs fewer rows. Having any value counts as a value. Values of which chance alone explains this
    are not remarked.
    """
    target = columns.to_float32(label)[0]
    counts = target.value_counts()
    if is_vector(series) or len(counts) != 2:
        return ""
    known = target.notna().to_numpy()
    codes, values = pd.factorize(series[known])  # -1: no value
    high = (target[known] == counts.index.max()).to_numpy()
    rows, highs = (np.bincount(codes + 1, w, len(values) + 1) for w in (None, high))
    total = len(codes)
    held = ["a value", "no value", *(f"the value {str(value)[:40]!r}" for value in values)]
    rows, highs = np.append(total - rows[0], rows), np.append(high.sum() - highs[0], highs)
    for group in np.flatnonzero((rows > 0) & (rows < total) & ((highs == 0) | (highs == rows))):
        only = counts.index.max() if highs[group] else counts.index.min()
        if _is_no_chance(int(rows[group]), counts, only):
            return (
                f"{series.name} has {held[group]} in {int(rows[group]):,} rows, and {label.name} "
                f"is {only:g} in all of them; is it known only afterwards?"
            )
    return ""


def _is_no_chance(rows: int, counts: pd.Series, only: Any) -> bool:
    """Whether it is no chance that so many rows have one label only.

    Args:
        rows: Number of rows.
        counts: Number of rows of each label.
        only: The label of all of them.
    """
    share = counts[only] / counts.sum()
    least = max(_FEW_ROWS, _FREQUENT_ROWS * share, _FREQUENT * counts[only])
    return bool(rows >= least and share**rows < _CHANCE)
