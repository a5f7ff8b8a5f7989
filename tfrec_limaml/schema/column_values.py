"""Turns Arrow columns of any type into the schema's types, and says which values could not be.

One set of rules for ``limaml datasets prepare`` and ``limaml prepare``; docs/data.md has them as a
table. Nothing passes through floats that would lose digits there.
"""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.schema.arrow_keys import Column, Mask, as_text, plain
from tfrec_limaml.schema.schema import TIMESTAMP_UNITS, Feature, Label
from tfrec_limaml.schema.task_keys import EXACT_FLOATS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_TRUTH = {"true": 1.0, "false": 0.0}


def _milliseconds(year: int) -> int:
    return round(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)


#: Times that a calendar can show, milliseconds; others are unreadable.
CALENDAR = _milliseconds(1), _milliseconds(9999)
#: Times that an interaction can plausibly have, milliseconds.
PLAUSIBLE = _milliseconds(1980), _milliseconds(2100)


def implausible(times: Integers) -> Mask:
    """Which times ``[n]`` lie before 1980 or after 2099: a wrong unit, or none at all."""
    return (times < PLAUSIBLE[0]) | (times >= PLAUSIBLE[1])


def as_floats(column: Column) -> Floats:
    """Float64 values ``[n]``; NaN where a value is missing, not a number, or infinite."""
    values = as_numbers(column)
    return np.where(np.isfinite(values), values, np.nan)


def as_numbers(column: Column) -> Floats:
    """Float64 values ``[n]``, infinite ones too; NaN where a value is missing or not a number."""
    array = plain(column)
    kind = array.type
    if pa.types.is_string(kind):
        return _floats_of_text(array)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return np.full(len(array), np.nan)
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)


def as_integers(column: Column) -> tuple[Integers, Mask]:
    """Int64 values ``[n]`` and a mask of those that are missing, not whole, or not exact.

    A float from 2**53 on may stand for any of several integers, and is none of them.
    """
    array = plain(column)
    kind = array.type
    if pa.types.is_string(kind):
        return _integers_of_text(array)
    if pa.types.is_integer(kind):
        return _integers_of_integers(array)
    if pa.types.is_decimal(kind):
        return _integers_of_text(as_text(array))
    return _integers_of_floats(as_floats(array))


def as_milliseconds(column: Column, unit: str) -> tuple[Integers, Mask]:
    """Milliseconds since the epoch ``[n]`` and a mask of times that are missing, unreadable, or
    outside the years 1 to 9998.
    """
    array = plain(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        times, invalid = _milliseconds_of_moments(array)
    elif unit == "iso":
        times, invalid = _milliseconds_of_text(as_text(array))
    else:
        times, invalid = _milliseconds_of_numbers(array, unit)
    invalid = invalid | (times < CALENDAR[0]) | (times >= CALENDAR[1])
    return np.where(invalid, 0, times), invalid


def as_label(column: Column, label: Label) -> tuple[Floats, Mask]:
    """Labels ``[n]`` and a mask of those outside the label's range."""
    values = as_floats(column)
    if label.kind == "binary":
        return values, ~np.isin(values, (0.0, 1.0))
    low = -np.inf if label.minimum is None else label.minimum
    high = np.inf if label.maximum is None else label.maximum
    with np.errstate(invalid="ignore", over="ignore"):
        inside = (values >= low) & (values <= high) & np.isfinite(values.astype(np.float32))
    return values, ~inside


def as_feature(column: Column, feature: Feature) -> tuple[pa.Array, Mask]:
    """The feature's values in its own dtype, invalid ones replaced by its default value, and a mask
    of those ``[n]``.
    """
    if feature.dtype == "string":
        text = as_text(joined(column, feature.separator))
        return pc.fill_null(text, feature.default_value), pc.is_null(text).to_numpy(
            zero_copy_only=False
        )
    if feature.width > 1:
        return _vectors(plain(column), feature)
    if feature.dtype == "int64":
        integers, invalid = as_integers(column)
        return pa.array(np.where(invalid, feature.default_value, integers), pa.int64()), invalid
    with np.errstate(over="ignore"):
        values = as_floats(column).astype(np.float32)
    invalid = ~np.isfinite(values)
    return pa.array(
        np.where(invalid, np.float32(feature.default_value), values), pa.float32()
    ), invalid


def joined(column: Column, separator: str | None) -> Column:
    """Lists of single values as text with a separator, as multi-valued features have them; any
    other column as it is.

    Missing and empty values of a list are left out. A list with a value that holds the separator is
    null: it would become other values.
    """
    array = plain(column)
    if separator is None or not is_list(array.type):
        return array
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        array = pa.array(array.to_pylist(), pa.large_list(array.type.value_type))
    rows = np.asarray(pc.list_parent_indices(array))
    values = as_text(pc.list_flatten(array))
    kept = np.asarray(pc.fill_null(pc.not_equal(values, ""), False))
    rows, values = rows[kept], values.filter(pa.array(kept))
    ends = np.cumsum(np.bincount(rows, minlength=len(array)))
    lists = pa.LargeListArray.from_arrays(pa.array(np.append(0, ends), pa.int64()), values)
    unfit = np.asarray(pc.is_null(array)).copy()
    unfit[rows[np.asarray(pc.match_substring(values, separator))]] = True
    return pc.if_else(pa.array(unfit), None, pc.binary_join(lists, separator))


def can_hold(kind: pa.DataType, feature: Feature) -> bool:
    """Whether a column of this Arrow type can hold any valid value of the feature."""
    if pa.types.is_dictionary(kind):
        return can_hold(kind.value_type, feature)
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return False
    if is_list(kind):
        is_split = feature.separator is not None and not pa.types.is_nested(kind.value_type)
        return feature.width > 1 or is_split
    if feature.width > 1:
        return _is_textual(kind)
    if feature.dtype == "string" or _is_textual(kind):
        return True
    return not (pa.types.is_temporal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_textual(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _floats_of_text(text: pa.Array) -> Floats:
    try:  # what Arrow can read is read fast
        return np.asarray(text.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid:
        pass
    trimmed = pc.utf8_trim_whitespace(text)
    values = pd.to_numeric(
        pd.Series(trimmed.to_numpy(zero_copy_only=False), dtype=object), errors="coerce"
    ).to_numpy(np.float64)
    unread = np.isnan(values)
    if unread.any():
        lower = pc.utf8_lower(trimmed.filter(pa.array(unread))).to_pylist()
        values = values.copy()
        values[unread] = [_TRUTH.get(word, np.nan) for word in lower]
    return values


def _integers_of_text(text: pa.Array) -> tuple[Integers, Mask]:
    try:
        return _integers_of_integers(text.cast(pa.int64()))
    except pa.ArrowInvalid:
        pass
    values, invalid = _integers_of_floats(_floats_of_text(text))
    trimmed = pc.utf8_trim_whitespace(text)
    digits = pc.fill_null(pc.match_substring_regex(trimmed, r"^[+-]?[0-9]+$"), False)
    places = np.flatnonzero(np.asarray(digits))
    exact = [int(word) for word in trimmed.take(pa.array(places)).to_pylist()]
    fitting = np.array([_LOWEST <= number <= _HIGHEST for number in exact], bool)
    values, invalid = values.copy(), invalid.copy()
    values[places] = [n if fits else 0 for n, fits in zip(exact, fitting, strict=True)]
    invalid[places] = ~fitting
    return values, invalid


def _integers_of_integers(array: pa.Array) -> tuple[Integers, Mask]:
    invalid = np.asarray(pc.is_null(array))
    if pa.types.is_uint64(array.type):
        unsigned = np.asarray(pc.fill_null(array, 0))
        invalid = invalid | (unsigned > np.uint64(_HIGHEST))
        return np.where(invalid, np.uint64(0), unsigned).astype(np.int64), invalid
    return np.asarray(pc.fill_null(array, 0).cast(pa.int64())), invalid


def _integers_of_floats(values: Floats) -> tuple[Integers, Mask]:
    with np.errstate(invalid="ignore"):
        invalid = ~((values == np.floor(values)) & (np.abs(values) < EXACT_FLOATS))
    return np.where(invalid, 0, values).astype(np.int64), invalid


def _milliseconds_of_moments(array: pa.Array) -> tuple[Integers, Mask]:
    invalid = np.asarray(pc.is_null(array))
    if pa.types.is_date(array.type):
        days = array.cast(pa.date32()).cast(pa.int32())
        return np.asarray(pc.fill_null(days, 0), np.int64) * 86_400_000, invalid
    unit = {"s": 1000, "ms": 1, "us": -1000, "ns": -1_000_000}[array.type.unit]
    numbers = np.asarray(pc.fill_null(array.cast(pa.int64()), 0))
    if unit < 0:
        return numbers // -unit, invalid
    invalid = invalid | (np.abs(numbers.astype(np.float64)) * unit >= 2.0**62)
    return np.where(invalid, 0, numbers) * unit, invalid


def _milliseconds_of_text(text: pa.Array) -> tuple[Integers, Mask]:
    words = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    parsed = pd.to_datetime(words, errors="coerce", utc=True, format="ISO8601")
    if parsed.dtype == object:  # times that no single unit can hold
        parsed = pd.to_datetime(parsed, errors="coerce", utc=True)
    invalid = parsed.isna().to_numpy()
    moments = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return np.where(invalid, 0, moments), invalid


def _milliseconds_of_numbers(array: pa.Array, unit: str) -> tuple[Integers, Mask]:
    factor = TIMESTAMP_UNITS[unit]
    integers, fraction = as_integers(array)
    if factor < 1:
        whole = integers // round(1 / factor)
    else:
        fraction = fraction | (np.abs(integers.astype(np.float64)) * factor >= 2.0**62)
        whole = np.where(fraction, 0, integers) * int(factor)
    if not fraction.any():
        return whole, fraction
    values = np.floor(as_floats(array) * factor)
    with np.errstate(invalid="ignore"):
        invalid = fraction & ~(np.abs(values) < 2.0**62)
    return np.where(fraction, np.where(invalid, 0, values), whole).astype(np.int64), invalid


def _vectors(array: pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    if pa.types.is_string(array.type):
        array = pa.array([_parsed(text) for text in array.to_pylist()], pa.list_(pa.string()))
    kind = pa.int64() if feature.dtype == "int64" else pa.float32()
    matrix = np.full((len(array), feature.width), feature.default_value, kind.to_pandas_dtype())
    invalid = np.ones(len(array), bool)
    if is_list(array.type):
        fitting = np.asarray(pc.equal(pc.list_value_length(array), feature.width).fill_null(False))
        single = Feature(name=feature.name, dtype=feature.dtype, fill_value=feature.fill_value)
        cells, wrong = as_feature(array.filter(pa.array(fitting)).flatten(), single)
        matrix[fitting] = np.asarray(cells).reshape(-1, feature.width)
        invalid[fitting] = wrong.reshape(-1, feature.width).any(axis=1)
    matrix[invalid] = feature.default_value
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), kind), feature.width), invalid


def _parsed(text: str | None) -> list[str] | None:
    """The cells of a JSON list; None for any other text."""
    try:
        values = json.loads(text, parse_int=str, parse_float=str) if text else None
    except (ValueError, RecursionError):
        return None
    return [str(value) for value in values] if isinstance(values, list) else None
