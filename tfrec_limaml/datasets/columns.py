"""Converts users' columns to canonical types: text, 64-bit integers, 32-bit floats, milliseconds.

The rules are those of `tfrec_limaml.schema.column_values`, which the Beam job follows too. Every
function returns the converted series, with null for unusable values, and their number by reason:
``missing``, ``unparsable`` (not of the declared type, or a number that the type cannot hold
exactly) or ``non_finite`` (NaN or infinity).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Mask
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema import arrow_keys, column_values, task_keys
from tfrec_limaml.schema.column_numbers import as_integers, as_numbers
from tfrec_limaml.schema.column_times import as_milliseconds
from tfrec_limaml.schema.schema import Feature

Converted = tuple[pd.Series, Counter[str]]


def arrow(series: pd.Series) -> pa.Array:
    """The column as an Arrow array; values without a common type become text, each separately."""
    try:
        column = pa.array(series, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        column = pa.array([_single_text(value) for value in series], pa.string())
    return arrow_keys.simple_array(column)


def to_string(series: pd.Series, separator: str | None = None) -> Converted:
    """Text; whole numbers have no ``.0`` (a column of integers with gaps is read as floats).

    Lists become text with the separator of a multi-valued feature.
    """
    column = arrow_keys.simple_array(column_values.join_lists(arrow(series), separator))
    text = arrow_keys.as_text(column)
    return _text_series(text, series), _kinds(series, np.asarray(text.is_null()), column)


def to_float32(series: pd.Series) -> Converted:
    """Finite numbers; ``true`` and ``false`` are 1 and 0."""
    column = arrow(series)
    with np.errstate(over="ignore"):
        values = as_numbers(column).astype(np.float32)
    invalid = ~np.isfinite(values)
    result = pd.Series(
        pd.array(np.where(invalid, np.nan, values), dtype="Float32"), index=series.index
    )
    return result, _kinds(series, invalid, column, np.isinf(values))


def to_int64(series: pd.Series) -> Converted:
    """Whole numbers; fractions and numbers beyond 64 bits are unparsable."""
    column = arrow(series)
    values, invalid = as_integers(column)
    result = pd.Series(pd.arrays.IntegerArray(values, invalid.copy()), index=series.index)
    return result, _kinds(series, invalid, column)


def to_vector(series: pd.Series, width: int) -> Converted:
    """Lists of `width` finite numbers, given as lists or as JSON text."""
    column = arrow(series)
    vectors, invalid = column_values.as_feature(column, Feature(name="vector", width=width))
    cells = [
        None if is_invalid else cell
        for cell, is_invalid in zip(vectors.to_pylist(), invalid, strict=True)
    ]
    result = pd.Series(cells, index=series.index, dtype="object")
    return result, _kinds(series, invalid, column)


def to_milliseconds(series: pd.Series, unit: str) -> Converted:
    """Milliseconds since the epoch.

    The column has numbers in `unit`, ISO 8601 text (UTC without an offset), or dates and times.
    """
    column = arrow(series)
    values, invalid = as_milliseconds(column, unit)
    result = pd.Series(pd.arrays.IntegerArray(values, invalid.copy()), index=series.index)
    return result, _kinds(series, invalid, column)


def to_key(series: pd.Series) -> Converted:
    """A key column: 64-bit integers stay integers, other values become their canonical text."""
    column = arrow(series)
    if pa.types.is_integer(column.type):
        result, counts = to_int64(series)
        if not counts["unparsable"]:
            return result, counts
    text = arrow_keys.as_keys(column)
    return _text_series(text, series), _kinds(series, np.asarray(text.is_null()), column)


def same_key_type(left: pd.Series, right: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both columns with one type, as text if their types differ: keys must match across files."""
    if left.dtype == right.dtype:
        return left, right
    return to_string(left)[0], to_string(right)[0]


def require_some(
    series: pd.Series, raw: pd.Series, column: str, expected: str, remedy: str
) -> None:
    """Raises `SchemaError` if a column has values, but none of the wanted kind."""
    if len(raw) and raw.notna().any() and series.isna().all():
        example = raw[raw.notna()].iloc[0]
        raise SchemaError(
            f"column {column!r}: none of its {len(raw)} values is {expected} (the first is "
            f"{str(example)[:200]!r}); {remedy}"
        )


def _single_text(value: Any) -> str | None:
    try:
        return task_keys.key_text(value)
    except LimamlError:  # a list, a mapping
        return None


def _text_series(text: pa.Array, like: pd.Series) -> pd.Series:
    return pd.Series(
        pd.array(text.to_numpy(zero_copy_only=False), dtype="string"), index=like.index
    )


def _kinds(
    raw: pd.Series, invalid: Mask, column: pa.Array, infinite: Mask | None = None
) -> Counter[str]:
    """Numbers of invalid values by kind."""
    missing = np.asarray(raw.isna(), bool)
    non_finite = np.zeros(len(raw), bool) if infinite is None else infinite.copy()
    if infinite is not None and pa.types.is_string(column.type) and invalid.any():
        words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        non_finite |= np.asarray(pc.fill_null(pc.equal(words, "nan"), False))
    masks = {
        "missing": missing,
        "unparsable": invalid & ~missing & ~non_finite,
        "non_finite": non_finite & ~missing,
    }
    return Counter({name: int(mask.sum()) for name, mask in masks.items() if mask.any()})
