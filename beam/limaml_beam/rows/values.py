"""Turns raw columns of any type into the schema's types, and says which values could not be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.rows.columnar import Mask
from tfrec_limaml.schema.schema import TIMESTAMP_UNITS, Feature, Label

Floats = npt.NDArray[np.float64]


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array, dictionaries decoded, binary read as text (invalid UTF-8 becomes null)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return _decode(array)
    return array


def as_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Text of every value: integers and whole floats without a decimal point; null where there is
    none (NaN too).
    """
    array = plain(column)
    if pa.types.is_string(array.type):
        return array
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        finite = values[np.isfinite(values)]
        if np.array_equal(finite, np.floor(finite)) and np.all(np.abs(finite) < 2**53):
            return (
                pa.array(values, pa.float64(), from_pandas=True, mask=~np.isfinite(values))
                .cast(pa.int64())
                .cast(pa.string())
            )
        return pa.array(values, from_pandas=True).cast(pa.string())
    if pa.types.is_nested(array.type):
        return pa.nulls(len(array), pa.string())
    return array.cast(pa.string())


def as_floats(column: pa.ChunkedArray | pa.Array) -> Floats:
    """Float64 values ``[n]``; NaN where a value is missing, not a number, or infinite."""
    array = plain(column)
    if pa.types.is_string(array.type):
        values = pd.to_numeric(
            pd.Series(array.to_numpy(zero_copy_only=False)), errors="coerce"
        ).to_numpy(np.float64)
    elif pa.types.is_null(array.type) or pa.types.is_nested(array.type):
        values = np.full(len(array), np.nan)
    elif pa.types.is_boolean(array.type):
        values = array.cast(pa.int8()).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def as_integers(column: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
    """Int64 values ``[n]`` and a mask of those that are missing or not whole numbers."""
    array = plain(column)
    if pa.types.is_string(array.type) and len(array):
        numbers = pd.to_numeric(pd.Series(array.to_numpy(zero_copy_only=False)), errors="coerce")
        if pd.api.types.is_integer_dtype(numbers.dtype):  # exact beyond 2**53, which floats are not
            return numbers.to_numpy(np.int64), np.zeros(len(array), bool)
    if pa.types.is_integer(array.type):
        invalid = pc.is_null(array).to_numpy(zero_copy_only=False)
        return pc.fill_null(array, 0).cast(pa.int64(), safe=False).to_numpy(
            zero_copy_only=False
        ), invalid
    values = as_floats(array)
    invalid = np.isnan(values) | (values != np.floor(values)) | (np.abs(values) >= 2**63)
    return np.where(invalid, 0, values).astype(np.int64), invalid


def as_milliseconds(
    column: pa.ChunkedArray | pa.Array, unit: str
) -> tuple[npt.NDArray[np.int64], Mask]:
    """Milliseconds since the epoch ``[n]`` and a mask of unreadable times."""
    array = plain(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        moments = array.cast(
            pa.timestamp("ms", tz=getattr(array.type, "tz", None)), safe=False
        ).cast(pa.int64())
        return as_integers(moments)
    if unit == "iso":
        parsed = pd.to_datetime(
            pd.Series(as_text(array).to_numpy(zero_copy_only=False)),
            errors="coerce",
            utc=True,
            format="ISO8601",
        )
        invalid = parsed.isna().to_numpy()
        moments = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
        return np.where(invalid, 0, moments), invalid
    integers, invalid = as_integers(array)
    factor = TIMESTAMP_UNITS[unit]
    if not invalid.any():
        return (integers * int(factor) if factor >= 1 else integers // round(1 / factor)), invalid
    values = as_floats(array) * factor
    invalid = np.isnan(values) | (np.abs(values) >= 2**62)
    return np.floor(np.where(invalid, 0.0, values)).astype(np.int64), invalid


def as_label(column: pa.ChunkedArray | pa.Array, label: Label) -> tuple[Floats, Mask]:
    """Labels ``[n]`` and a mask of those outside the label's range."""
    values = as_floats(column)
    if label.kind == "binary":
        return values, ~np.isin(values, (0.0, 1.0))
    low = -np.inf if label.minimum is None else label.minimum
    high = np.inf if label.maximum is None else label.maximum
    with np.errstate(invalid="ignore"):
        return values, ~((values >= low) & (values <= high))


def as_feature(column: pa.ChunkedArray | pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    """The feature's values in its own dtype, invalid ones replaced by its filler, and a mask of
    those ``[n]``.
    """
    if feature.dtype == "string":
        text = as_text(column)
        return pc.fill_null(text, feature.filler), pc.is_null(text).to_numpy(zero_copy_only=False)
    if feature.width > 1:
        return _vector(plain(column), feature)
    if feature.dtype == "int64":
        integers, invalid = as_integers(column)
        return pa.array(np.where(invalid, feature.filler, integers), pa.int64()), invalid
    with np.errstate(over="ignore"):
        values = as_floats(column).astype(np.float32)
    invalid = ~np.isfinite(values)
    return pa.array(np.where(invalid, np.float32(feature.filler), values), pa.float32()), invalid


def _vector(array: pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    matrix = np.full((len(array), feature.width), np.nan)
    if (
        pa.types.is_list(array.type)
        or pa.types.is_large_list(array.type)
        or pa.types.is_fixed_size_list(array.type)
    ):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        fitting = lengths == feature.width
        chosen = array.filter(pa.array(fitting))
        matrix[fitting] = as_floats(chosen.flatten()).reshape(-1, feature.width)
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    invalid = ~np.isfinite(matrix).all(axis=1)
    matrix[invalid] = feature.filler
    if feature.dtype == "int64":
        return pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.astype(np.int64).ravel()), feature.width
        ), invalid
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), feature.width), invalid


def _decode(array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_text_or_none(value) for value in array.to_pylist()], pa.string())


def _text_or_none(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
