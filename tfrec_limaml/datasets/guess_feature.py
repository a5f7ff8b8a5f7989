"""Guesses the feature of a column, or the reason to leave it out."""

from __future__ import annotations

import dataclasses
import re

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
from tfrec_limaml.datasets.leaks import leak_remark
from tfrec_limaml.datasets.unordered_numbers import is_dense, is_unordered
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import DType, Feature, Role
from tfrec_limaml.wording import counted

_OUTCOME_PARTS = r"click|conver|like|purchase|view|follow|comment|forward|share|hate|stay|dwell|play_time|watch|response|outcome|(^|_)enter(ed)?(_|$)"  # noqa: E501
_DATE = r"(^|_)date$|^date"
#: Numbers of distinct values up to which a category is one-hot, and above which it is hashed.
_ONE_HOT_LIMIT, _VOCABULARY_LIMIT = 50, 20_000
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
    remark = leak_remark(series, numbers if numeric else None, frame[label])
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
    if separator == "," and remark and text_remarks.has_decimal_commas(series):
        separator = None
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


def _outcome_remark(column: str) -> str:
    """Why a number is named like another outcome of the event, or ""."""
    if re.search(_OUTCOME_PARTS, column.lower()):
        return "looks like another outcome of the same event; add it if it is known beforehand"
    return ""
