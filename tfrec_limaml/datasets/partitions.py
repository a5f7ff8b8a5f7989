"""Reads partition columns and days from the folders above a file, and recognises marker files."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from urllib.parse import unquote

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.columns import DAY_MS

#: Hive's name for a missing value.
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
#: Partition columns that are read as the day of their rows.
DAY_COLUMNS = ("day", "date", "dt", "ds", "event_date", "event_day")
#: How far a row's time may be outside its partition's day, because of time zones.
TOLERANCE_MS = DAY_MS

_EPOCH = dt.date(1970, 1, 1)
Values = dict[str, str | None]


def partition_values(path: str) -> Values:
    """Values of the partition columns of a file, from folders ``name=value`` above it.

    Names and values are percent-decoded; an empty value and Hive's default partition are None.

    Raises:
        SchemaError: A column occurs twice.
    """
    values: Values = {}
    for folder in path.split("/")[:-1]:
        name, sign, value = folder.partition("=")
        if not (sign and name):
            continue
        name, value = unquote(name), unquote(value)
        if name in values:
            raise SchemaError(
                f"two folders of {path} name the partition column {name!r}; rename one of them"
            )
        values[name] = None if value in ("", DEFAULT_PARTITION) else value
    return values


def is_marker(relative: str) -> bool:
    """Whether a file is not data, by its path below the given folder or pattern.

    Its own name or a folder's begins with ``_`` or ``.`` (``_SUCCESS``, ``_temporary/``), or it is
    a checksum (``.crc``). A folder ``_name=value`` is a partition.
    """
    *folders, name = relative.split("/")
    hidden = any(f.startswith(("_", ".")) and "=" not in f for f in folders)
    return hidden or name.startswith(("_", ".")) or name.lower().endswith(".crc")


def span(values: Mapping[str, str | None]) -> tuple[int, int] | None:
    """The days of a partition ``[first, end)``, milliseconds; None if its columns name no day.

    A day is ``day``, ``date``, ``dt``, ``ds``, ``event_date`` or ``event_day`` as ``2026-01-31`` or
    ``20260131``; or ``year``, ``month`` and ``day`` as numbers, where the last ones may be missing.
    """
    try:
        if "year" in values:
            return _calendar_span(values)
        for name in DAY_COLUMNS:
            text = values.get(name) or ""
            if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}", text):
                first = start_of(dt.date.fromisoformat(text))
                return first, first + DAY_MS
    except (ValueError, OverflowError):  # not a calendar day
        return None
    return None


def _calendar_span(values: Mapping[str, str | None]) -> tuple[int, int] | None:
    parts = [values.get(name) for name in ("year", "month", "day")]
    numbers = [int(part) for part in parts[: parts.index(None) if None in parts else 3] if part]
    if not numbers:
        return None
    first = dt.date(*[*numbers, 1, 1][:3])
    if len(numbers) == 3:
        end = first + dt.timedelta(days=1)
    elif len(numbers) == 2:
        end = (first + dt.timedelta(days=31)).replace(day=1)
    else:
        end = first.replace(year=first.year + 1)
    return start_of(first), start_of(end)


def is_outside(path: str, first: int, end: int) -> bool:
    """Whether, by its folders, no row of a file lies in ``[first, end)``, milliseconds.

    Allows for `TOLERANCE_MS`.
    """
    days = span(partition_values(path))
    return days is not None and (days[1] + TOLERANCE_MS <= first or days[0] - TOLERANCE_MS >= end)


def start_of(day: dt.date) -> int:
    """The start of a day (UTC), milliseconds since the epoch."""
    return (day - _EPOCH).days * DAY_MS
