"""Rows for a folder that is partitioned by day and country, and their schema."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

SCHEMA = {
    "name": "lake",
    "label": {"name": "y"},
    "timestamp": "t",
    "tasks": {"user": ["u"]},
    "features": [
        {"name": "u", "role": "meta", "dtype": "string", "encoding": "hash", "buckets": 8},
        {"name": "tags", "dtype": "string", "encoding": "vocabulary", "separator": "|"},
        {"name": "land", "dtype": "string", "encoding": "vocabulary"},
    ],
    "split": {"validation_start": "2026-01-05", "test_start": "2026-01-07"},
}


DAYS = pd.date_range("2026-01-01", "2026-01-08", tz="UTC")


def lists(values: list[object], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.list_(pa.string()))


def rows_of(day: pd.Timestamp, land: str) -> pd.DataFrame:
    start = day.value // 10**6
    return pd.DataFrame(
        {
            "y": [0, 1, 1, 0],
            "t": [start + hour * 3_600_000 for hour in (1, 9, 15, 23)],
            "u": ["a", "b", "a", "c"],
            "tags": [["x", "y"], [], None, [land]],
        }
    )
