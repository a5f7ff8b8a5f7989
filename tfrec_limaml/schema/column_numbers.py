"""Numbers of Arrow columns of any type, and which values are not numbers.

Integers are never converted through floats if that would lose digits.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Floats, Integers, Mask
from tfrec_limaml.schema.arrow_keys import Column, as_text, simple_array
from tfrec_limaml.schema.task_keys import EXACT_FLOATS

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_TRUTH = {"true": 1.0, "false": 0.0}


def as_floats(column: Column) -> Floats:
    """Float64 values ``[n]``; NaN where a value is missing, not a number, or infinite."""
    values = as_numbers(column)
    return np.where(np.isfinite(values), values, np.nan)


def as_numbers(column: Column) -> Floats:
    """Float64 values ``[n]``, infinite ones too; NaN where a value is missing or not a number."""
    array = simple_array(column)
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

    A float from 2**53 on can be any of several integers, and is invalid.
    """
    array = simple_array(column)
    kind = array.type
    if pa.types.is_string(kind):
        return _integers_of_text(array)
    if pa.types.is_integer(kind):
        return _integers_of_integers(array)
    if pa.types.is_decimal(kind):
        return _integers_of_text(as_text(array))
    return _integers_of_floats(as_floats(array))


def _floats_of_text(text: pa.Array) -> Floats:
    try:  # fast, if Arrow can read all values
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
    positions = np.flatnonzero(np.asarray(digits))
    exact = [int(word) for word in trimmed.take(pa.array(positions)).to_pylist()]
    fitting = np.array([_LOWEST <= number <= _HIGHEST for number in exact], bool)
    values, invalid = values.copy(), invalid.copy()
    values[positions] = [n if fits else 0 for n, fits in zip(exact, fitting, strict=True)]
    invalid[positions] = ~fitting
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
