"""Recognises columns of text, lists, vectors and times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from tfrec_limaml.datasets import columns
from tfrec_limaml.schema.column_numbers import as_floats


def is_text(series: pd.Series) -> bool:
    """Whether a column can hold text."""
    return bool(pd.api.types.is_string_dtype(series.dtype) or series.dtype == object)


def _has_containers(series: pd.Series) -> bool:
    return bool(series.map(lambda v: isinstance(v, list | tuple | dict | np.ndarray)).any())


def is_vector(series: pd.Series) -> bool:
    """Whether the values of a column are lists."""
    return bool(series.dtype == object and _has_containers(series.dropna().head(100)))


def nested_type(series: pd.Series) -> str | None:
    """The type of a column whose values are neither single nor vectors of one width."""
    if series.dtype != object:
        return None
    kind = columns.arrow(series).type
    if not pa.types.is_nested(kind):
        return "values of several types" if _has_containers(series) else None
    if list_separator(series) is not None:
        return None
    numbers = pa.types.is_list(kind) and (
        pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    )
    widths = series.dropna().map(len).nunique() if numbers else 0
    return None if widths == 1 else f"values of type {kind}"


def list_separator(series: pd.Series) -> str | None:
    """A separator that no value of a column of lists contains.

    For lists of texts, or of integers of several lengths. None for other columns, and if every
    candidate occurs.
    """
    kind = columns.arrow(series).type if series.dtype == object else pa.null()
    if not pa.types.is_list(kind) or not _has_many_values(kind.value_type, series):
        return None
    values = columns.to_string(series.explode().dropna())[0].dropna()
    marks = ("|", ",", ";", "\x1f")
    return next((m for m in marks if not values.str.contains(m, regex=False).any()), None)


def _has_many_values(kind: pa.DataType, series: pd.Series) -> bool:
    if pa.types.is_string(kind):
        return True
    return bool(pa.types.is_integer(kind) and series.dropna().map(len).nunique() > 1)


def text_separator(series: pd.Series, distinct: int) -> str | None:
    """The separator of a text column whose values consist of few distinct parts, or None."""
    text = series.dropna().astype(str)
    for mark in ("|", ";", ","):
        if (
            text.str.contains(mark, regex=False).mean() > 0.1
            and text.str.split(mark).explode().nunique() < distinct
        ):
            return mark
    return None


def time_unit(series: pd.Series) -> str | None:
    """The `Schema.timestamp_unit` of a column of times; None for other columns."""
    kind = columns.arrow(series.head(1)).type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "iso"
    numbers = pd.Series(as_floats(columns.arrow(series)))
    if numbers.notna().mean() > 0.9:
        middle = float(numbers.median())
        return next(
            (
                unit
                for unit, low in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8))
                if middle > low
            ),
            None,
        )
    if not is_text(series):
        return None
    moments, _ = columns.to_milliseconds(series, "iso")
    return "iso" if moments.notna().mean() > 0.9 else None
