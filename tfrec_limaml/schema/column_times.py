"""Times of Arrow columns of any type, in milliseconds since the epoch."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Integers, Mask
from tfrec_limaml.schema.arrow_keys import Column, as_text, simple_array
from tfrec_limaml.schema.column_numbers import as_floats, as_integers
from tfrec_limaml.schema.columns import DAY_MS, TIMESTAMP_UNITS


def _milliseconds(year: int) -> int:
    return round(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() * 1000)


#: Range of times that a calendar can show, milliseconds; others are invalid.
CALENDAR = _milliseconds(1), _milliseconds(9999)
#: Range of plausible times of interactions, milliseconds.
PLAUSIBLE = _milliseconds(1980), _milliseconds(2100)


def implausible(times: Integers) -> Mask:
    """Whether each time ``[n]`` is before 1980 or after 2099: probably in a wrong unit."""
    return (times < PLAUSIBLE[0]) | (times >= PLAUSIBLE[1])


def future(times: Integers) -> Mask:
    """Whether each plausible time ``[n]`` is more than a day ahead, more than any zone's offset."""
    return (times >= time.time() * 1000 + DAY_MS) & (times < PLAUSIBLE[1])


def offsets(column: Column, unit: str) -> tuple[int, int]:
    """The numbers of ISO 8601 texts with an offset from UTC (or ``Z``), and of those without one.

    Both are 0 for times of other types and units.
    """
    array = simple_array(column)
    if unit != "iso" or not pa.types.is_string(array.type):
        return 0, 0
    text = array.filter(pc.fill_null(pc.match_substring_regex(array, r"^\s*\d{4}"), False))
    with_offset = pc.match_substring_regex(text, r"[T ]\d{2}.*(Z|z|[+-]\d{2}:?(\d{2})?)\s*$")
    count = int(pc.sum(with_offset).as_py() or 0)
    return count, len(text) - count


def as_milliseconds(column: Column, unit: str) -> tuple[Integers, Mask]:
    """Milliseconds since the epoch ``[n]``, and a mask of invalid times.

    Invalid are times that are missing, unreadable, or outside the years 1 to 9998.
    """
    array = simple_array(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        times, invalid = _milliseconds_of_moments(array)
    elif unit == "iso":
        times, invalid = _milliseconds_of_text(as_text(array))
    else:
        times, invalid = _milliseconds_of_numbers(array, unit)
    invalid = invalid | (times < CALENDAR[0]) | (times >= CALENDAR[1])
    return np.where(invalid, 0, times), invalid


def _milliseconds_of_moments(array: pa.Array) -> tuple[Integers, Mask]:
    invalid = np.asarray(pc.is_null(array))
    if pa.types.is_date(array.type):
        days = array.cast(pa.date32()).cast(pa.int32())
        return np.asarray(pc.fill_null(days, 0), np.int64) * DAY_MS, invalid
    unit = {"s": 1000, "ms": 1, "us": -1000, "ns": -1_000_000}[array.type.unit]
    numbers = np.asarray(pc.fill_null(array.cast(pa.int64()), 0))
    if unit < 0:
        return numbers // -unit, invalid
    invalid = invalid | (np.abs(numbers.astype(np.float64)) * unit >= 2.0**62)
    return np.where(invalid, 0, numbers) * unit, invalid


def _milliseconds_of_text(text: pa.Array) -> tuple[Integers, Mask]:
    words = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    parsed = pd.to_datetime(words, errors="coerce", utc=True, format="ISO8601")
    if parsed.dtype == object:  # times that do not fit into one unit
        parsed = pd.to_datetime(parsed, errors="coerce", utc=True)
    invalid = parsed.isna().to_numpy()
    moments = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return np.where(invalid, 0, moments), invalid


def _milliseconds_of_numbers(array: pa.Array, unit: str) -> tuple[Integers, Mask]:
    factor = TIMESTAMP_UNITS[unit]
    integers, fraction = as_integers(array)
    if factor < 1:
        milliseconds = integers // round(1 / factor)
    else:
        fraction = fraction | (np.abs(integers.astype(np.float64)) * factor >= 2.0**62)
        milliseconds = np.where(fraction, 0, integers) * int(factor)
    if not fraction.any():
        return milliseconds, fraction
    values = np.floor(as_floats(array) * factor)
    with np.errstate(invalid="ignore"):
        invalid = fraction & ~(np.abs(values) < 2.0**62)
    return np.where(fraction, np.where(invalid, 0, values), milliseconds).astype(np.int64), invalid
