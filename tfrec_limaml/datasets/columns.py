"""Columns as people bring them, made canonical: text, 64-bit integers, 32-bit floats, milliseconds.

Every function returns the converted series, with a null wherever no usable value was found, and a
count of why: ``missing`` (nothing there), ``unparsable`` (something else than the declared type) or
``non_finite`` (NaN or infinity written out as a number).
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import TIMESTAMP_UNITS

Converted = tuple[pd.Series, Counter[str]]

_TRUTH = {"true": 1.0, "false": 0.0}


def to_string(series: pd.Series) -> Converted:
    """Text; whole floats lose their ``.0`` (a column of integers with gaps is read as floats)."""
    missing = series.isna()
    if pd.api.types.is_float_dtype(series.dtype):
        whole = (series % 1 == 0) | missing
        if whole.all():
            series = series.astype("Int64")
    text = series.astype("object").map(_text, na_action="ignore")
    return text.where(~missing, None).astype("string"), _counts(missing=missing)


def to_float32(series: pd.Series) -> Converted:
    """Finite numbers; ``true`` and ``false`` count as 1 and 0."""
    numbers, counts = _numbers(series)
    with np.errstate(over="ignore"):
        small = numbers.astype("float32")
    overflow = pd.Series(np.isinf(small.to_numpy()), index=series.index)
    counts.update(_counts(non_finite=overflow))
    return small.where(~overflow).astype("Float32"), counts


def to_int64(series: pd.Series) -> Converted:
    """Whole numbers; a fraction is unparsable."""
    if pd.api.types.is_integer_dtype(series.dtype):
        return series.astype("Int64"), _counts(missing=series.isna())
    numbers, counts = _numbers(series)
    fraction = (numbers % 1 != 0) & numbers.notna()
    huge = (numbers.abs() >= 2.0**63) & numbers.notna()
    counts.update(_counts(unparsable=fraction | huge))
    out = numbers.where(~(fraction | huge)).astype("Int64")
    if not pd.api.types.is_numeric_dtype(series.dtype):
        # Digits beyond 2**53 would be rounded on the way through floats: long identifiers are read
        # directly.
        long = (numbers.abs() > 2.0**53) & out.notna()
        exact = series[long].astype(str).str.strip()
        exact = exact[exact.str.fullmatch(r"[+-]?\d+")]
        out.loc[exact.index] = exact.map(int).astype("Int64")
    return out, counts


def to_vector(series: pd.Series, width: int) -> Converted:
    """Lists of `width` finite numbers, given as lists or as JSON text."""
    missing = series.isna()
    vectors = series.map(lambda value: _vector(value, width), na_action="ignore")
    bad = vectors.isna() & ~missing
    return vectors.astype("object").where(~vectors.isna(), None), _counts(
        missing=missing, unparsable=bad
    )


def to_milliseconds(series: pd.Series, unit: str) -> Converted:
    """Milliseconds since the epoch from numbers in `unit`, ISO 8601 text (UTC without an offset) or
    datetime columns.
    """
    missing = series.isna()
    if unit == "iso" or pd.api.types.is_datetime64_any_dtype(series.dtype):
        moments = pd.to_datetime(series, utc=True, errors="coerce", format="ISO8601")
        values = (
            moments.dt.tz_localize(None)
            .astype("datetime64[ms]")
            .astype("int64")
            .astype("Int64")
            .mask(moments.isna())
        )
        return values, _counts(missing=missing, unparsable=moments.isna() & ~missing)
    factor = TIMESTAMP_UNITS[unit]
    if pd.api.types.is_integer_dtype(series.dtype):
        whole = series.astype("Int64")
        return (whole * int(factor) if factor >= 1 else whole // round(1 / factor)), _counts(
            missing=missing
        )
    numbers, counts = _numbers(series)
    return (numbers * factor).round().astype("Int64"), counts


def to_key(series: pd.Series) -> Converted:
    """A key column: integers stay integers, everything else becomes text."""
    if pd.api.types.is_integer_dtype(series.dtype):
        return to_int64(series)
    return to_string(series)


def same_key_type(left: pd.Series, right: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both as text unless both are integers already: a key must match whatever file it came
    from.
    """
    if left.dtype == right.dtype:
        return left, right
    return to_string(left)[0], to_string(right)[0]


def require_some(series: pd.Series, raw: pd.Series, column: str, wanted: str, remedy: str) -> None:
    """Raises `SchemaError` if a column holds values but none of the wanted kind."""
    if len(raw) and raw.notna().any() and series.isna().all():
        example = raw[raw.notna()].iloc[0]
        raise SchemaError(
            f"column {column!r}: none of its {len(raw)} values is {wanted} (the first is "
            f"{example!r}); {remedy}"
        )


def _numbers(series: pd.Series) -> tuple[pd.Series, Counter[str]]:
    missing = series.isna()
    written_nan = pd.Series(False, index=series.index)
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.astype("Float64").astype("float64")
    else:
        text = series.astype("object").map(lambda v: str(v).strip().lower(), na_action="ignore")
        written_nan = text.eq("nan") & ~missing
        numbers = pd.to_numeric(
            text.map(lambda v: _TRUTH.get(v, v), na_action="ignore"), errors="coerce"
        ).astype("float64")
    non_finite = pd.Series(np.isinf(numbers.to_numpy()), index=series.index) | written_nan
    unparsable = numbers.isna() & ~missing & ~written_nan
    return numbers.where(~non_finite), _counts(
        missing=missing, unparsable=unparsable, non_finite=non_finite
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _vector(value: Any, width: int) -> list[float] | None:
    try:
        vector = np.asarray(
            json.loads(value) if isinstance(value, str) else value, dtype=np.float64
        )
    except (TypeError, ValueError):
        return None
    return (
        vector.astype(np.float32).tolist()
        if vector.shape == (width,) and np.isfinite(vector).all()
        else None
    )


def _counts(**masks: pd.Series) -> Counter[str]:
    return Counter({name: int(mask.sum()) for name, mask in masks.items() if mask.any()})
