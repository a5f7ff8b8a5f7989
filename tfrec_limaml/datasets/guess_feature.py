"""Guesses the feature of a column, or the reason to leave it out."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.column_shapes import (
    is_text,
    is_vector,
    list_separator,
    text_separator,
    time_unit,
)
from tfrec_limaml.schema.schema import DType, Feature, Role

_OUTCOME_PARTS = r"click|conver|like|purchase|view|follow|comment|forward|share|hate|stay|dwell|play_time|watch|response|outcome"  # noqa: E501
_DATE = r"(^|_)date$|^date"
ID_PARTS = r"(^|_)id$|[a-z]Id$"
#: A single feature that ranks the label this well is almost certainly known only afterwards.
_TOO_GOOD = 0.95
#: Numbers of distinct values up to which a category is one-hot, and above which it is hashed.
_ONE_HOT_LIMIT, _VOCABULARY_LIMIT = 50, 20_000


def guess_feature(
    frame: pd.DataFrame, column: str, label: str, task: str
) -> tuple[Feature | None, str]:
    """The feature of a column, or None; and a remark for the person who checks the guess, or ""."""
    series = frame[column]
    mark = list_separator(series)
    if mark is not None:
        series = columns.to_string(series, mark)[0]
    if is_vector(series):
        width = int(series.dropna().map(len).mode().iloc[0])
        return Feature(name=column, width=width), ""
    distinct = series.nunique()
    if distinct <= 1:
        return None, f"left out: {column} is constant"
    role: Role = "meta" if _constant_within(series, frame[task]) else "other"
    if mark is not None:
        return _multi_valued(column, mark, role), ""
    numbers, counts = columns.to_float32(series)
    numeric = counts["unparsable"] == 0 and numbers.notna().any()
    if numeric and (remark := _outcome_remark(numbers, column, frame[label])):
        return None, f"left out: {column} {remark}"
    if re.search(_DATE, column.lower()) or (not numeric and time_unit(series) is not None):
        return (
            None,
            f"left out: {column} is a second time column; dates of the test period never occur in "
            "training",
        )
    is_integer = numeric and bool((numbers.dropna() % 1 == 0).all())
    if numeric and not (is_integer and (distinct <= 20 or re.search(ID_PARTS, column))):
        skewed = bool((numbers.dropna() >= 0).all()) and float(numbers.quantile(0.99)) > 20 * max(
            float(numbers.median()), 1e-9
        )
        feature = Feature(name=column, role=role, encoding="quantiles")
        return dataclasses.replace(feature, normalise="log") if skewed else feature, ""
    return _category(
        series, column, role, distinct, "int64" if is_integer and not is_text(series) else "string"
    ), ""


def _constant_within(series: pd.Series, task: pd.Series) -> bool:
    """Whether a column describes the task: one value in each task, but not almost always the same
    value.
    """
    repeated = task.duplicated(keep=False)
    if not repeated.any() or series.value_counts(normalize=True).iloc[0] > 0.98:
        return False
    return bool(series[repeated].groupby(task[repeated]).nunique().le(1).mean() > 0.99)


def _category(series: pd.Series, column: str, role: Role, distinct: int, dtype: DType) -> Feature:
    separator = text_separator(series, distinct) if dtype == "string" else None
    if separator is not None:
        return _multi_valued(column, separator, role)
    if distinct <= _ONE_HOT_LIMIT:
        return Feature(
            name=column, role=role, dtype=dtype, encoding="vocabulary", max_vocabulary=distinct
        )
    if distinct <= _VOCABULARY_LIMIT:
        return Feature(
            name=column,
            role=role,
            dtype=dtype,
            encoding="vocabulary",
            max_vocabulary=distinct,
            embedding_width=16,
        )
    return Feature(
        name=column, role=role, dtype=dtype, encoding="hash", buckets=1 << 16, embedding_width=16
    )


def _multi_valued(column: str, separator: str, role: Role) -> Feature:
    return Feature(
        name=column,
        role=role,
        dtype="string",
        encoding="vocabulary",
        max_vocabulary=1000,
        embedding_width=16,
        separator=separator,
    )


def _ranking(values: pd.Series, label: pd.Series) -> float:
    """AUC of a single column, the better of both directions; 0.5 where the label is not binary."""
    valid = (values.notna() & label.notna()).to_numpy()
    ranks = values[valid].astype("float64").rank().to_numpy()
    positive = label[valid].to_numpy(dtype=np.float64) == 1.0
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs or label.dropna().nunique() > 2:
        return 0.5
    area = (ranks[positive].sum() - ups * (ups + 1) / 2) / (ups * downs)
    return float(max(area, 1 - area))


def _outcome_remark(numbers: pd.Series, column: str, label: pd.Series) -> str:
    """Why a number seems to be known only after the event, or ""."""
    rank = _ranking(numbers, columns.to_float32(label)[0])
    if rank > _TOO_GOOD:
        return f"alone ranks {label.name} with AUC {rank:.3f}; is it known only afterwards?"
    if re.search(_OUTCOME_PARTS, column.lower()):
        return "looks like another outcome of the same event; add it if it is known beforehand"
    return ""
