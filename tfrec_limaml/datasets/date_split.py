"""Splits: by date, derived from the times of a data set and checked against them; their rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import numpy as np
import pandas as pd

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema, Split, parse_time
from tfrec_limaml.wording import utc_text

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: Shares of the rows before ``validation_start`` and ``test_start``.
_SHARES_BEFORE = (0.8, 0.9)


def split_by_quantile(timestamps: pd.Series) -> Split:
    """A split by date into training (first 80 % of the rows), validation and test rows (10 % each).

    Args:
        timestamps: Milliseconds since the epoch.

    Raises:
        SchemaError: Too many rows have the same time for a split by date.
    """
    marks = [
        (_EPOCH + dt.timedelta(seconds=int(timestamps.quantile(q)) // 1000 + 1)).isoformat()
        for q in _SHARES_BEFORE
    ]
    if marks[0] == marks[1]:
        raise SchemaError(
            f"the timestamps leave no room for a split by date (both dates are {marks[0]}); "
            "give `split` in the schema"
        )
    return Split(validation_start=marks[0], test_start=marks[1])


def dates_as_text(split: Split) -> Split:
    """The split with its dates as text: YAML reads an unquoted date as a date object."""
    if split.per_task is not None:
        return split
    marks = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    changes: dict[str, Any] = {n: str(mark) for n, mark in marks.items() if mark is not None}
    return Split(**changes)


def check_dates(schema: Schema, timestamps: pd.Series) -> None:
    """Raises `SchemaError` if a date of the split is outside the times (milliseconds)."""
    assert schema.split is not None
    first, last = int(timestamps.min()), int(timestamps.max())
    span = f"{utc_text(first)} to {utc_text(last)}"
    for field in ("validation_start", "test_start"):
        mark = getattr(schema.split, field)
        if not first < parse_time(mark) <= last:
            raise SchemaError(
                f"split date {field} = {mark} is outside the data ({span}); choose one inside"
            )


def parts_of_rows(schema: Schema, frame: pd.DataFrame) -> pd.Series:
    """Number in `PARTS` of each row's part of the split; NaN for rows outside the dates.

    Args:
        schema: The schema, with a split.
        frame: Its interactions in time order, with times in milliseconds.
    """
    split = schema.split
    assert split is not None
    if split.per_task is not None:
        groups = frame.groupby(list(schema.task_columns()), sort=False)[schema.timestamp]
        position, count = groups.cumcount(), groups.transform("size")
        starts = [np.round(share * count) for share in np.cumsum(split.per_task)[:2]]
        return sum((position >= start).astype(float) for start in starts)
    times = frame[schema.timestamp]
    starts = [times >= parse_time(mark) for mark in split.starts()]
    first, end = split.train_start, split.test_end
    is_inside = (times >= (times.min() if first is None else parse_time(first))) & (
        times < (times.max() + 1 if end is None else parse_time(end))
    )
    return sum(start.astype(float) for start in starts).where(is_inside)
