"""Columns of a data set in the schema's types, with the invalid values counted."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from tfrec_limaml.datasets import columns
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.column_times import implausible, offsets
from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.wording import counted

Invalid = dict[str, dict[str, int]]
#: Share of implausible times above which a file is refused, as in ``limaml prepare``.
MAX_IMPLAUSIBLE = 0.5
#: The end of the error of a binary label with other numbers.
_OTHER_NUMBERS = "; a binary label is 0 or 1, other numbers need `kind: regression`"
#: Kind of times that have no offset from UTC, unlike others of their column.
WITHOUT_OFFSET = "without_offset"


def timestamp_column(series: pd.Series, schema: Schema, invalid: Invalid) -> pd.Series:
    """Milliseconds since the epoch; missing if a value is not a time.

    If some texts have an offset and others do not, `invalid` has the number of the latter.

    Raises:
        SchemaError: No value is a time, or most times are implausible.
    """
    values, _ = columns.to_milliseconds(series, schema.timestamp_unit)
    expected = (
        "ISO 8601 text"
        if schema.timestamp_unit == "iso"
        else f"a number of {schema.timestamp_unit}"
    )
    columns.require_some(
        values,
        series,
        schema.timestamp,
        expected,
        "set `timestamp_unit` to s, ms, us, ns or iso, as the column holds; convert other forms, "
        "such as 31/12/2024, to ISO 8601",
    )
    known = values.dropna()
    odd = known[implausible(known.to_numpy("int64"))]
    if len(odd) > MAX_IMPLAUSIBLE * len(values):
        raise SchemaError(
            f"column {schema.timestamp!r}: {len(odd)} of its {len(values)} times are before 1980 "
            f"or after 2099, such as {series[odd.index[0]]!s:.40}: is `timestamp_unit: "
            f"{schema.timestamp_unit}` right? Convert other forms, such as 20241231235959, to "
            "ISO 8601 text"
        )
    with_offset, without = offsets(columns.arrow(series), schema.timestamp_unit)
    if with_offset and without:
        invalid[schema.timestamp] = {WITHOUT_OFFSET: without}
    return values


def label_column(frame: pd.DataFrame, schema: Schema, invalid: Invalid) -> pd.Series:
    """Labels as float32; invalid ones are counted in `invalid` and stay as they are.

    Raises:
        SchemaError: No label is valid, or all have one value.
    """
    label, raw = schema.label, frame[schema.label.name]
    values, counts = columns.to_float32(raw)
    columns.require_some(
        values,
        raw,
        label.name,
        "a number",
        "the label must be 0 or 1, or a number with `kind: regression`",
    )
    outside = out_of_range(values, label)
    if outside.any():
        counts["out_of_range"] = int(outside.sum())
    _count_invalid(label.name, counts, invalid, label.on_invalid)
    valid = values[values.notna() & ~outside]
    if valid.empty:
        allowed = (
            "0 or 1" if label.kind == "binary" else f"between {label.minimum} and {label.maximum}"
        )
        raise SchemaError(
            f"label {label.name!r}: no value is {allowed}; for other numbers declare `kind: "
            "regression` with its range"
        )
    if valid.nunique() == 1:
        raise SchemaError(
            f"label {label.name!r} has one value only ({valid.iloc[0]:g} in "
            f"{counted(len(valid), 'row')})"
            f"{_others(raw[values.isna() | outside])}: there is nothing to learn"
            + (_OTHER_NUMBERS if outside.any() and label.kind == "binary" else "")
        )
    return values


def out_of_range(values: pd.Series, label: Label) -> pd.Series:
    """Whether each label is a number that the declaration does not allow."""
    if label.kind == "binary":
        return values.notna() & ~values.isin([0.0, 1.0])
    lowest = -float("inf") if label.minimum is None else label.minimum
    highest = float("inf") if label.maximum is None else label.maximum
    return values.notna() & ~values.between(lowest, highest).fillna(False)


def _others(invalid: pd.Series) -> str:
    """Text with the number of missing or invalid labels and an example, or ""."""
    if invalid.empty:
        return ""
    present = invalid.dropna()
    example = f", such as {str(present.iloc[0])[:40]!r}" if len(present) else ""
    return f" besides {len(invalid)} that are missing or invalid{example}"


def typed_column(
    series: pd.Series, schema: Schema, name: str, invalid: Invalid, table: str | None = None
) -> pd.Series:
    """A column of the interactions, or of `table`, in the type that the schema gives it.

    It is a feature, a weight, a passthrough column or a key. Invalid values become missing and are
    counted in `invalid`.

    Raises:
        SchemaError: No value has the type, or one does not and the schema says
            ``on_invalid: error``.
    """
    feature = next((f for f in schema.features if f.name == name and f.table == table), None)
    is_weight = name == schema.weight
    if feature is not None:
        if is_weight and table is None:
            _number_column(series, name, is_weight)
        return _feature_column(series, feature, invalid)
    if is_weight or name in schema.carry:
        values, counts = _number_column(series, name, is_weight)
    else:
        values, counts = columns.to_key(series)
    _count_invalid(name, counts, invalid)
    return values


def _number_column(series: pd.Series, name: str, is_weight: bool) -> tuple[pd.Series, Counter[str]]:
    """A weight or a passthrough column. Raises `SchemaError` if it has no usable number."""
    values, counts = columns.to_float32(series)
    columns.require_some(
        values, series, name, "a number", "weight and passthrough columns must be numeric"
    )
    negative = (values < 0).fillna(False)
    if is_weight and negative.any():
        counts["out_of_range"] = int(negative.sum())
        values = values.mask(negative)
    if is_weight and not (values > 0).fillna(False).any():
        raise SchemaError(
            f"no row has a weight above 0 in column {name!r}: no row would have an effect; is it "
            "the right column?"
        )
    return values, counts


def _feature_column(series: pd.Series, feature: Feature, invalid: Invalid) -> pd.Series:
    if feature.width > 1:
        values, counts = columns.to_vector(series, feature.width)
    elif feature.dtype == "string":
        values, counts = columns.to_string(series, feature.separator)
    else:
        values, counts = (
            columns.to_int64(series) if feature.dtype == "int64" else columns.to_float32(series)
        )
    expected = (
        f"a vector of {feature.width} numbers"
        if feature.width > 1
        else f"of the declared dtype {feature.dtype}"
    )
    columns.require_some(
        values,
        series,
        feature.name,
        expected,
        "write numbers with a decimal point, or declare the dtype (and encoding) that it has",
    )
    _count_invalid(feature.name, counts, invalid, feature.on_invalid)
    return values


def _count_invalid(
    name: str, counts: Counter[str], invalid: Invalid, on_invalid: str = "skip"
) -> None:
    if counts and on_invalid == "error":
        raise SchemaError(
            f"column {name!r} holds invalid values {dict(counts)}, and the schema says "
            "on_invalid: error; correct the values, or change on_invalid"
        )
    if counts:
        invalid[name] = dict(counts)
