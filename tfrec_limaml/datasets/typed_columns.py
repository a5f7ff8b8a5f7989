"""Columns of a data set in the schema's types, with the invalid values counted."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.column_times import implausible
from tfrec_limaml.schema.schema import Feature, Schema

Invalid = dict[str, dict[str, int]]
#: Share of implausible times above which a file is refused, as in ``limaml prepare``.
MAX_IMPLAUSIBLE = 0.5


def timestamp_column(series: pd.Series, schema: Schema) -> pd.Series:
    """Milliseconds since the epoch, missing where a value is no time.

    Raises:
        SchemaError: No value is a time, or most times are implausible.
    """
    out, _ = columns.to_milliseconds(series, schema.timestamp_unit)
    wanted = (
        "ISO 8601 text"
        if schema.timestamp_unit == "iso"
        else f"a number of {schema.timestamp_unit}"
    )
    columns.require_some(
        out, series, schema.timestamp, wanted, "set `timestamp_unit` to what the column holds"
    )
    odd = int(implausible(out.dropna().to_numpy("int64")).sum())
    if odd > MAX_IMPLAUSIBLE * len(out):
        raise SchemaError(
            f"column {schema.timestamp!r}: {odd} of its {len(out)} times are before 1980 or after "
            f"2099: is `timestamp_unit: {schema.timestamp_unit}` right?"
        )
    return out


def label_column(frame: pd.DataFrame, schema: Schema, invalid: Invalid) -> pd.Series:
    """Labels as float32; invalid ones are counted in `invalid` and stay as they are.

    Raises:
        SchemaError: No label is valid, or all have one value.
    """
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
    _count_invalid(label.name, counts, invalid, label.on_invalid)
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


def typed_column(
    series: pd.Series, schema: Schema, name: str, invalid: Invalid, table: str | None = None
) -> pd.Series:
    """A column of the interactions, or of `table`, in the type that the schema gives it: a feature,
    a weight, a passthrough column or a key. Invalid values become missing, and are counted in
    `invalid`.

    Raises:
        SchemaError: No value has the type, or one does not and the schema says
            ``on_invalid: error``.
    """
    feature = next((f for f in schema.features if f.name == name and f.table == table), None)
    if feature is not None:
        return _feature_column(series, feature, invalid)
    if name == schema.weight or name in schema.carry:
        out, counts = columns.to_float32(series)
        columns.require_some(
            out, series, name, "a number", "weight and passthrough columns must be numeric"
        )
        negative = (out < 0).fillna(False)
        if name == schema.weight and negative.any():
            counts["out_of_range"] = int(negative.sum())
            out = out.mask(negative)
        if name == schema.weight and not (out > 0).fillna(False).any():
            raise SchemaError(
                f"no row has a weight above 0 in column {name!r}: no row would have an effect; is "
                f"it the right column?"
            )
    else:
        out, counts = columns.to_key(series)
    _count_invalid(name, counts, invalid)
    return out


def _feature_column(series: pd.Series, feature: Feature, invalid: Invalid) -> pd.Series:
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
    _count_invalid(feature.name, counts, invalid, feature.on_invalid)
    return out


def _count_invalid(
    name: str, counts: Counter[str], invalid: Invalid, on_invalid: str = "skip"
) -> None:
    if counts and on_invalid == "error":
        raise SchemaError(
            f"column {name!r} holds invalid values {dict(counts)}, and the schema says "
            "on_invalid: error"
        )
    if counts:
        invalid[name] = dict(counts)
