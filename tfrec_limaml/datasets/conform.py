"""Makes data fit their schema, or says why they cannot: checked up front, before anything is
written.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.datasets.raw import INTERACTIONS, RawData
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema import arrow_keys, column_values
from tfrec_limaml.schema.schema import Feature, Schema, Split, parse_time
from tfrec_limaml.schema.task_keys import MAX_KEY_BYTES

Invalid = dict[str, dict[str, int]]
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: Share of implausible times above which a file is refused, as in ``limaml prepare``.
MAX_IMPLAUSIBLE = 0.5


def conform(raw: RawData) -> tuple[RawData, Invalid]:
    """Checks and converts a data set.

    Rows without a usable timestamp or task key are dropped (they belong to no task), and rows that
    repeat another one in every column that the schema names; both are counted in ``dropped``.
    Columns that the schema does not name are left behind. Where the schema has no split, one by
    date is added.

    Args:
        raw: The data as read.

    Returns:
        The data in canonical types and time order, and per column the number of ``missing``,
        ``unparsable``, ``non_finite`` and ``out_of_range`` values that remain in it.

    Raises:
        SchemaError: A column is missing or of another type than declared, a file is empty, the
            label has one class only, a table's key is not unique, a split date lies outside the
            data, or a value is invalid where the schema says ``on_invalid: error``.
    """
    schema, invalid = raw.schema, Invalid()
    _check_tables(schema, raw.tables)
    frame = raw.interactions
    if frame.empty:
        raise SchemaError(f"{INTERACTIONS} has no rows")
    columns_needed = interaction_columns(schema)
    _check_columns(frame, INTERACTIONS, columns_needed)
    out = {
        schema.timestamp: _timestamp(frame[schema.timestamp], schema),
        schema.label.name: _label(frame, schema, invalid),
    }
    for name in columns_needed:
        if name not in out:
            out[name] = _convert(frame[name], schema, name, invalid)
    interactions = pd.DataFrame(out)
    tables = {name: _table(schema, name, raw.tables[name], invalid) for name in schema.tables}
    interactions, tables = _match_keys(schema, interactions, tables, invalid)
    interactions, dropped = _drop_rows(schema, interactions)
    interactions, duplicates = _drop_duplicates(interactions)
    if duplicates:
        dropped["exact duplicate"] = duplicates
    interactions = interactions.sort_values(schema.timestamp, kind="stable").reset_index(drop=True)
    split = (
        _as_text(schema.split)
        if schema.split
        else split_by_quantile(interactions[schema.timestamp])
    )
    schema = schema.replace(timestamp_unit="ms", split=split)
    if split.per_task is None:
        _check_split(schema, interactions[schema.timestamp])
    totals = dict(Counter(raw.dropped) + dropped)
    return dataclasses.replace(
        raw, schema=schema, interactions=interactions, tables=tables, dropped=totals
    ), invalid


def split_by_quantile(timestamps: pd.Series, validation: float = 0.8, test: float = 0.9) -> Split:
    """A split by date: the first 80 % of the rows train, the next 10 % validate, the last 10 %
    test.

    Args:
        timestamps: Milliseconds since the epoch.
        validation, test: Shares of the rows before ``validation_start`` and ``test_start``.
    """
    marks = [
        (EPOCH + dt.timedelta(seconds=int(timestamps.quantile(q)) // 1000 + 1)).isoformat()
        for q in (validation, test)
    ]
    if marks[0] == marks[1]:
        raise SchemaError(
            f"the timestamps leave no room for a split by date (both cuts fall on {marks[0]}); "
            "give `split` in the schema"
        )
    return Split(validation_start=marks[0], test_start=marks[1])


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
        lost = [
            k for k in group if any(f.name == k and f.table is not None for f in schema.features)
        ]
        if lost:
            raise SchemaError(
                f"task key columns must lie in the interactions, but {lost} are features of a table"
            )


def _check_columns(frame: pd.DataFrame, where: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in frame.columns:
            raise SchemaError(
                f"{where} has no column {name!r}{closest(name, map(str, frame.columns))}"
            )


def closest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or what there is instead."""
    names = list(candidates)
    near = difflib.get_close_matches(name, names, n=1) or [
        c for c in names if c.lower() == name.lower()
    ]
    return f"; did you mean {near[0]!r}?" if near else f"; there are {sorted(names)}"


def _drop_duplicates(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    objects = [c for c in frame.columns if frame[c].dtype == object]
    duplicate = frame.assign(**{c: frame[c].map(repr) for c in objects}).duplicated()  # no hash
    return frame[~duplicate], int(duplicate.sum())


def _timestamp(series: pd.Series, schema: Schema) -> pd.Series:
    out, _ = columns.to_milliseconds(series, schema.timestamp_unit)
    wanted = (
        "ISO 8601 text"
        if schema.timestamp_unit == "iso"
        else f"a number of {schema.timestamp_unit}"
    )
    columns.require_some(
        out, series, schema.timestamp, wanted, "set `timestamp_unit` to what the column holds"
    )
    odd = int(column_values.implausible(out.dropna().to_numpy("int64")).sum())
    if odd > MAX_IMPLAUSIBLE * len(out):
        raise SchemaError(
            f"column {schema.timestamp!r}: {odd} of its {len(out)} times lie before 1980 or after "
            f"2099: is `timestamp_unit: {schema.timestamp_unit}` right?"
        )
    return out


def _label(frame: pd.DataFrame, schema: Schema, invalid: Invalid) -> pd.Series:
    label, raw = schema.label, frame[schema.label.name]
    out, counts = columns.to_float32(raw)
    columns.require_some(
        out,
        raw,
        label.name,
        "a number",
        "the label must be 0 or 1, or a number with `kind: regression`",
    )
    if label.kind == "binary":
        outside = out.notna() & ~out.isin([0.0, 1.0])
    else:
        lowest = -float("inf") if label.minimum is None else label.minimum
        highest = float("inf") if label.maximum is None else label.maximum
        outside = out.notna() & ~out.between(lowest, highest).fillna(False)
    if outside.any():
        counts["out_of_range"] = int(outside.sum())
    _record(label.name, counts, invalid, label.on_invalid)
    good = out[out.notna() & ~outside]
    if good.empty:
        allowed = (
            "0 or 1" if label.kind == "binary" else f"between {label.minimum} and {label.maximum}"
        )
        raise SchemaError(
            f"label {label.name!r}: no value is {allowed}; for other numbers declare `kind: "
            "regression` with its range"
        )
    if good.nunique() == 1:
        raise SchemaError(
            f"label {label.name!r} has one value only ({good.iloc[0]:g} in {len(good)} rows): "
            "there is nothing to learn"
        )
    return out


def _convert(
    series: pd.Series, schema: Schema, name: str, invalid: Invalid, table: str | None = None
) -> pd.Series:
    feature = next((f for f in schema.features if f.name == name and f.table == table), None)
    if feature is not None:
        return _feature(series, feature, invalid)
    if name == schema.weight or name in schema.carry:
        out, counts = columns.to_float32(series)
        columns.require_some(
            out, series, name, "a number", "weight and carried columns must be numeric"
        )
        negative = (out < 0).fillna(False)
        if name == schema.weight and negative.any():
            counts["out_of_range"] = int(negative.sum())
            out = out.mask(negative)
        if name == schema.weight and not (out > 0).fillna(False).any():
            raise SchemaError(
                f"no row has a weight above 0 in column {name!r}: no row would count; is it the "
                "column of weights?"
            )
    else:
        out, counts = columns.to_key(series)
    _record(name, counts, invalid)
    return out


def _feature(series: pd.Series, feature: Feature, invalid: Invalid) -> pd.Series:
    if feature.width > 1:
        out, counts = columns.to_vector(series, feature.width)
    elif feature.dtype == "string":
        out, counts = columns.to_string(series, feature.separator)
    else:
        out, counts = (
            columns.to_int64(series) if feature.dtype == "int64" else columns.to_float32(series)
        )
    wanted = (
        f"a vector of {feature.width} numbers"
        if feature.width > 1
        else f"of the declared dtype {feature.dtype}"
    )
    columns.require_some(
        out, series, feature.name, wanted, "declare the dtype (and encoding) that it has"
    )
    _record(feature.name, counts, invalid, feature.on_invalid)
    return out


def _record(name: str, counts: Counter[str], invalid: Invalid, on_invalid: str = "skip") -> None:
    if counts and on_invalid == "error":
        raise SchemaError(
            f"column {name!r} holds invalid values {dict(counts)}, and the schema says "
            "on_invalid: error"
        )
    if counts:
        invalid[name] = dict(counts)


def _table(schema: Schema, name: str, frame: pd.DataFrame, invalid: Invalid) -> pd.DataFrame:
    key = schema.tables[name]
    if frame.empty:
        raise SchemaError(f"table {name!r} has no rows")
    wanted = [key, *(f.name for f in schema.features if f.table == name and f.name != key)]
    _check_columns(frame, f"table {name!r}", wanted)
    out = pd.DataFrame({c: _convert(frame[c], schema, c, invalid, name) for c in wanted})
    out, _ = _drop_duplicates(out[out[key].notna()])
    double = out[key][out[key].duplicated()]
    if len(double):
        raise SchemaError(
            f"table {name!r}: its key {key!r} must be unique, but {double.nunique()} keys occur "
            f"twice (such as {double.iloc[0]!r})"
        )
    return out.reset_index(drop=True)


def _match_keys(
    schema: Schema, interactions: pd.DataFrame, tables: dict[str, pd.DataFrame], invalid: Invalid
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Gives join keys one type on both sides and counts rows that find no partner."""
    out: dict[str, Any] = {}
    for name, table in tables.items():
        key = schema.tables[name]
        left, right = columns.same_key_type(interactions[key], table[key])
        interactions, out[name] = interactions.assign(**{key: left}), table.assign(**{key: right})
        unmatched = int((~left.isin(right)).sum())
        if unmatched == len(left):
            raise SchemaError(
                f"no value of {key!r} in the interactions occurs in the table {name!r}: are they "
                "keyed alike?"
            )
        if unmatched:
            invalid[f"{name} (rows without a partner)"] = {"missing": unmatched}
    return interactions, out


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
                    f"{int(missing.sum())} rows have {reason}, and the schema says on_invalid: "
                    "error for the label"
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
        raise SchemaError(f"no row is left: {dict(dropped)}")
    return frame, dropped


def _as_text(split: Split) -> Split:
    """The split with its dates as text: YAML reads an unquoted date as a date object."""
    if split.per_task is not None:
        return split
    marks = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
    changes: dict[str, Any] = {n: str(mark) for n, mark in marks.items() if mark is not None}
    return Split(**changes)


def _check_split(schema: Schema, timestamps: pd.Series) -> None:
    assert schema.split is not None
    first, last = int(timestamps.min()), int(timestamps.max())
    span = " to ".join(
        (EPOCH + dt.timedelta(milliseconds=t)).isoformat(timespec="seconds") for t in (first, last)
    )
    for field in ("validation_start", "test_start"):
        mark = getattr(schema.split, field)
        if not first < parse_time(mark) <= last:
            raise SchemaError(
                f"split date {field} = {mark} lies outside the data ({span}); choose dates inside "
                "it"
            )
