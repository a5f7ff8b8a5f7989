"""Guesses the feature of a column, or the reason to leave it out."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from tfrec_limaml.datasets import columns, text_remarks
from tfrec_limaml.datasets.column_names import is_id, is_time
from tfrec_limaml.datasets.column_shapes import (
    is_text,
    is_vector,
    list_separator,
    text_separator,
    time_unit,
)
from tfrec_limaml.datasets.unordered_numbers import is_dense, is_unordered
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import DType, Feature, Role
from tfrec_limaml.wording import counted

_OUTCOME_PARTS = r"click|conver|like|purchase|view|follow|comment|forward|share|hate|stay|dwell|play_time|watch|response|outcome|(^|_)enter(ed)?(_|$)"  # noqa: E501
_DATE = r"(^|_)date$|^date"
#: A single feature that ranks the label this well is almost certainly known only afterwards.
_TOO_GOOD = 0.95
#: Numbers of distinct values up to which a category is one-hot, and above which it is hashed.
_ONE_HOT_LIMIT, _VOCABULARY_LIMIT = 50, 20_000
#: Minimum number of rows per value from which the mean label of a value is not chance.
_ROWS_PER_VALUE = 20
#: Least share and number of rows of a value that is frequent, and the probability below which one
#: label for all of them is not chance.
_FREQUENT, _FREQUENT_ROWS, _CHANCE = 0.05, 200, 1e-6
#: Share of distinct values above which a column identifies rows, and minimum number of rows for it.
_UNIQUE, _ENOUGH_ROWS = 0.95, 100


def guess_feature(
    frame: pd.DataFrame, column: str, label: str, task: str
) -> tuple[Feature | None, str]:
    """The feature of a column, or None; and a remark for the user who checks the guess, or ""."""
    series = frame[column]
    mark = list_separator(series)
    if mark is not None:
        series = columns.to_string(series, mark)[0]
    if is_vector(series):
        width = int(series.dropna().map(len).mode().iloc[0])
        return Feature(name=column, width=width), ""
    distinct = series.nunique()
    if distinct <= 1:
        return None, f"left out: {column} {'is constant' if distinct else 'has no value'}"
    role: Role = "meta" if constant_within(series, frame[task]) else "other"
    if mark is not None:
        return _multi_valued(column, mark, role), ""
    numbers, counts = columns.to_float32(series)
    numeric = counts["unparsable"] == 0 and numbers.notna().any() and not _is_code(series)
    remark = _leak_remark(series, numbers if numeric else None, frame[label])
    remark = remark or (_outcome_remark(column) if numeric else "")
    if remark := remark or _time_remark(series, column, numeric, role):
        return None, f"left out: {column} {remark}"
    if not numeric:
        return _text(series, column, role, distinct)
    return _number(frame, column, label, task, role, numbers)


def _number(
    frame: pd.DataFrame, column: str, label: str, task: str, role: Role, numbers: pd.Series
) -> tuple[Feature | None, str]:
    """The feature of a column of numbers, and a remark."""
    series, distinct = frame[column], frame[column].nunique()
    is_integer = bool((numbers.dropna() % 1 == 0).all())
    if is_integer and _numbers_rows(numbers, distinct):
        return None, f"left out: {column} numbers the rows"
    dtype: DType = "string" if is_text(series) else "int64"
    if is_integer and (distinct <= 20 or is_id(column)):
        return _category(series, column, role, distinct, dtype)
    unordered = is_integer and is_unordered(numbers, frame[label], frame[task])
    if unordered and is_dense(numbers):
        feature, remark = _category(series, column, role, distinct, dtype)
        return feature, remark or (
            f"{column} holds whole numbers whose order says little about {label}: they are taken "
            "as IDs; if they are amounts, write encoding: quantiles and no dtype"
        )
    feature, remark = _quantity(numbers, column, role)
    return feature, remark or (
        f"{column} holds whole numbers whose order says little about {label}; if they are IDs, "
        "write encoding: hash, buckets and embedding_width"
        if unordered
        else ""
    )


def _quantity(numbers: pd.Series, column: str, role: Role) -> tuple[Feature, str]:
    """The feature of a column of amounts, and a remark."""
    skewed = bool((numbers.dropna() >= 0).all()) and float(numbers.quantile(0.99)) > 20 * max(
        float(numbers.median()), 1e-9
    )
    feature = Feature(name=column, role=role, encoding="quantiles")
    feature = dataclasses.replace(feature, normalise="log") if skewed else feature
    return _with_fill_value(feature, numbers)


def _with_fill_value(feature: Feature, numbers: pd.Series) -> tuple[Feature, str]:
    """The feature with the median as fill value if numbers are missing, and a remark that says so.

    Without one a missing number would become 0, which may lie far from all others.
    """
    missing = float(numbers.isna().mean())
    if not missing:
        return feature, ""
    median = float(f"{numbers.median():.6g}")
    return dataclasses.replace(feature, fill_value=median), (
        f"fill value: {missing:.1%} of {feature.name} is missing and becomes the median, {median:g}"
    )


def _text(series: pd.Series, column: str, role: Role, distinct: int) -> tuple[Feature | None, str]:
    """The feature of a column of text, and a remark."""
    if (width := text_remarks.json_width(series)) is not None:
        return Feature(name=column, role=role, width=width), ""
    if remark := text_remarks.lists_as_text(series):
        return None, f"left out: {column} {remark}"
    remark = text_remarks.written_numbers(series)
    separator = text_separator(series, distinct)
    if separator is not None:
        return _multi_valued(column, separator, role), remark
    feature, own_remark = _category(series, column, role, distinct, "string")
    return feature, remark or own_remark


def _is_code(series: pd.Series) -> bool:
    """Whether a text column holds codes: digits with leading zeros, such as postal codes."""
    if not is_text(series):
        return False
    matches = pc.match_substring_regex(arrow_keys.as_text(columns.arrow(series)), r"^\s*0\d")
    return bool(pc.any(matches).as_py())


def _numbers_rows(numbers: pd.Series, distinct: int) -> bool:
    """Whether a column of whole numbers is an index of the rows."""
    return bool(
        distinct > max(_UNIQUE * len(numbers), _ENOUGH_ROWS)
        and float(numbers.max()) - float(numbers.min()) == distinct - 1
    )


def _time_remark(series: pd.Series, column: str, numeric: bool, role: Role) -> str:
    """Why a column is a time of the row, or "".

    A number that describes the task, such as the time of its registration, is a feature.
    """
    named = is_time(column) and role != "meta"
    if re.search(_DATE, column.lower()) or (
        (named or not numeric) and time_unit(series) is not None
    ):
        return "is a second time column; dates of the test period never occur in training"
    return ""


def constant_within(series: pd.Series, task: pd.Series) -> bool:
    """Whether a column describes the task: it has one value in each task.

    A column with almost always the same value does not.
    """
    repeated = task.duplicated(keep=False)
    if not repeated.any() or series.value_counts(normalize=True).iloc[0] > 0.98:
        return False
    return bool(series[repeated].groupby(task[repeated]).nunique().le(1).mean() > 0.99)


def _category(
    series: pd.Series, column: str, role: Role, distinct: int, dtype: DType
) -> tuple[Feature | None, str]:
    rows = int(series.notna().sum())
    if distinct > max(_UNIQUE * rows, _ENOUGH_ROWS):
        return None, (
            f"left out: {column} has {counted(distinct, 'different value', spec=',')} in "
            f"{counted(rows, 'row', spec=',')}: nothing is "
            "learned from one row per value"
        )
    feature = Feature(
        name=column, role=role, dtype=dtype, encoding="vocabulary", max_vocabulary=distinct
    )
    if distinct <= _ONE_HOT_LIMIT:
        return feature, ""
    if distinct <= _VOCABULARY_LIMIT:
        return dataclasses.replace(feature, embedding_width=16), ""
    return Feature(
        name=column, role=role, dtype=dtype, encoding="hash", buckets=1 << 16, embedding_width=16
    ), ""


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


def _leak_remark(series: pd.Series, numbers: pd.Series | None, label: pd.Series) -> str:
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

    Such a value may be known only afterwards: what was not opened was not clicked. Values of which
    chance alone explains this are not remarked.
    """
    target = columns.to_float32(label)[0]
    overall = target.value_counts(normalize=True)
    if is_vector(series) or len(overall) != 2:
        return ""
    least = max(_FREQUENT * len(series), _FREQUENT_ROWS)
    values = series.value_counts(dropna=False)
    for value in values.index[values >= least]:
        labels = target[series.isna() if pd.isna(value) else series == value].dropna()
        if labels.nunique() == 1 and overall[labels.iloc[0]] ** len(labels) < _CHANCE:
            held = "no value" if pd.isna(value) else f"the value {str(value)[:40]!r}"
            return (
                f"{series.name} has {held} in {len(labels):,} rows, and {label.name} is "
                f"{labels.iloc[0]:g} in all of them; is it known only afterwards?"
            )
    return ""


def _outcome_remark(column: str) -> str:
    """Why a number is named like another outcome of the event, or ""."""
    if re.search(_OUTCOME_PARTS, column.lower()):
        return "looks like another outcome of the same event; add it if it is known beforehand"
    return ""
