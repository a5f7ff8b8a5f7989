"""Converts data to their schema, or raises an error, before anything is written."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.date_split import check_dates, dates_as_text, split_by_quantile
from tfrec_limaml.datasets.raw import INTERACTIONS, RawData
from tfrec_limaml.datasets.typed_columns import (
    Invalid,
    label_column,
    timestamp_column,
    typed_column,
)
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import MAX_KEY_BYTES
from tfrec_limaml.wording import closest, counted


def conform(raw: RawData) -> tuple[RawData, Invalid]:
    """Checks and converts a data set.

    Rows without a usable timestamp or task key are dropped (they belong to no task), and so are
    rows that equal another one in every column of the schema; both are counted in ``dropped``.
    Columns outside the schema are removed. If the schema has no split, one by date is added.

    Args:
        raw: The data as read.

    Returns:
        The data in canonical types and time order, and per column the number of ``missing``,
        ``unparsable``, ``non_finite`` and ``out_of_range`` values in the rows that were read,
        those that are dropped included; and of times ``without_offset`` if others have one.

    Raises:
        SchemaError: A column is missing or of another type than declared, a file is empty, the
            label has one class only, a table's key is not unique, a split date is outside the
            data, or a value is invalid and the schema says ``on_invalid: error``.
    """
    schema, invalid = raw.schema, Invalid()
    _check_tables(schema, raw.tables)
    frame = raw.interactions
    if frame.empty:
        raise SchemaError(f"{INTERACTIONS} has no rows")
    columns_needed = interaction_columns(schema)
    _check_columns(frame, INTERACTIONS, columns_needed)
    converted = {
        schema.timestamp: timestamp_column(frame[schema.timestamp], schema, invalid),
        schema.label.name: label_column(frame, schema, invalid),
    }
    for name in columns_needed:
        if name not in converted:
            converted[name] = typed_column(frame[name], schema, name, invalid)
    interactions = pd.DataFrame(converted)
    tables = {name: _table(schema, name, raw.tables[name], invalid) for name in schema.tables}
    interactions, tables = _match_keys(schema, interactions, tables, invalid)
    interactions, dropped = _drop_rows(schema, interactions)
    interactions, duplicates = _drop_duplicates(interactions)
    if duplicates:
        dropped["exact duplicate"] = duplicates
    interactions = interactions.sort_values(schema.timestamp, kind="stable").reset_index(drop=True)
    split = (
        dates_as_text(schema.split)
        if schema.split
        else split_by_quantile(interactions[schema.timestamp])
    )
    schema = schema.replace(timestamp_unit="ms", split=split)
    if split.per_task is None:
        check_dates(schema, interactions[schema.timestamp])
    totals = dict(Counter(raw.dropped) + dropped)
    return dataclasses.replace(
        raw, schema=schema, interactions=interactions, tables=tables, dropped=totals
    ), invalid


def interaction_columns(schema: Schema) -> list[str]:
    """Columns that the interactions must have."""
    features = [f.name for f in schema.features if f.table is None]
    in_tables = {f.name for f in schema.features if f.table is not None}
    keys = [
        k
        for group in (*schema.tasks.values(), *(h.keys for h in schema.history))
        for k in group
        if k not in in_tables
    ]
    weight = [schema.weight] if schema.weight is not None else []
    names = [
        schema.label.name,
        schema.timestamp,
        *keys,
        *schema.tables.values(),
        *features,
        *weight,
        *schema.carry,
    ]
    return list(dict.fromkeys(names))


def _check_tables(schema: Schema, tables: Mapping[str, pd.DataFrame]) -> None:
    for name in schema.tables:
        if name not in tables:
            raise SchemaError(
                f"the schema joins the table {name!r}, but none was given{closest(name, tables)}"
            )
    for group in schema.tasks.values():
        joined_keys = [
            k for k in group if any(f.name == k and f.table is not None for f in schema.features)
        ]
        if joined_keys:
            raise SchemaError(
                f"task key columns must be in the interactions, but {joined_keys} are features of "
                "a table"
            )


def _check_columns(frame: pd.DataFrame, subject: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in frame.columns:
            raise SchemaError(
                f"{subject} has no column {name!r}{closest(name, map(str, frame.columns))}"
            )


def _drop_duplicates(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    objects = [c for c in frame.columns if frame[c].dtype == object]
    # Lists cannot be hashed; their text can.
    duplicate = frame.assign(**{c: frame[c].map(repr) for c in objects}).duplicated()
    return frame[~duplicate], int(duplicate.sum())


def _table(schema: Schema, name: str, frame: pd.DataFrame, invalid: Invalid) -> pd.DataFrame:
    key = schema.tables[name]
    if frame.empty:
        raise SchemaError(f"table {name!r} has no rows")
    names = [key, *(f.name for f in schema.features if f.table == name and f.name != key)]
    _check_columns(frame, f"table {name!r}", names)
    result = pd.DataFrame({c: typed_column(frame[c], schema, c, invalid, name) for c in names})
    result, _ = _drop_duplicates(result[result[key].notna()])
    repeated = result[key][result[key].duplicated()]
    if len(repeated):
        raise SchemaError(
            f"table {name!r}: its key {key!r} must be unique, but "
            f"{counted(repeated.nunique(), 'key occurs', 'keys occur')} "
            f"twice (such as {repeated.iloc[0]!r})"
        )
    return result.reset_index(drop=True)


def _match_keys(
    schema: Schema, interactions: pd.DataFrame, tables: dict[str, pd.DataFrame], invalid: Invalid
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Converts join keys to one type on both sides, and counts rows without a match."""
    matched: dict[str, Any] = {}
    for name, table in tables.items():
        key = schema.tables[name]
        left, right = columns.same_key_type(interactions[key], table[key])
        interactions, matched[name] = (
            interactions.assign(**{key: left}),
            table.assign(**{key: right}),
        )
        unmatched = int((~left.isin(right)).sum())
        if unmatched == len(left):
            raise SchemaError(
                f"no value of {key!r} in the interactions ({_example(left)}) occurs in the table "
                f"{name!r} ({_example(right)}): do they use the same keys?"
            )
        if unmatched:
            invalid[f"{name} (rows without a match)"] = {"missing": unmatched}
    return interactions, matched


def _example(keys: pd.Series) -> str:
    present = keys.dropna()
    return f"such as {str(present.iloc[0])[:40]!r}" if len(present) else "all missing"


def _drop_rows(schema: Schema, frame: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    dropped: Counter[str] = Counter()
    keys = dict.fromkeys(k for group in schema.tasks.values() for k in group)
    for column, reason in (
        (schema.timestamp, "no usable timestamp"),
        *((k, f"no task key {k}") for k in keys),
    ):
        missing = frame[column].isna()
        if missing.any():
            if schema.label.on_invalid == "error":
                raise SchemaError(
                    f"{counted(int(missing.sum()), 'row has', 'rows have')} {reason}, and the "
                    "schema says on_invalid: error for the label"
                )
            dropped[reason] = int(missing.sum())
            frame = frame[~missing]
    for name, group in schema.tasks.items():
        parts = [arrow_keys.as_keys(columns.arrow(frame[key])) for key in group]
        fits = arrow_keys.fits(arrow_keys.join_keys(parts))
        if not fits.all():
            dropped[f"key of task {name} longer than {MAX_KEY_BYTES} bytes"] = int((~fits).sum())
            frame = frame[fits]
    if frame.empty:
        raise SchemaError(
            f"no row is left: {dict(dropped)}; check timestamp_unit and the key columns"
        )
    return frame, dropped
