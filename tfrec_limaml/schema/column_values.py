"""Converts Arrow columns of any type to the schema's types, with masks of invalid values.

``limaml datasets prepare`` and ``limaml prepare`` share these rules; docs/data.md has them as a
table.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Floats, Mask
from tfrec_limaml.schema.arrow_keys import Column, as_text, simple_array
from tfrec_limaml.schema.column_numbers import as_floats, as_integers
from tfrec_limaml.schema.schema import Feature, Label


def as_label(column: Column, label: Label) -> tuple[Floats, Mask]:
    """Labels ``[n]`` and a mask of those outside the label's range."""
    values = as_floats(column)
    if label.kind == "binary":
        return values, ~np.isin(values, (0.0, 1.0))
    low = -np.inf if label.minimum is None else label.minimum
    high = np.inf if label.maximum is None else label.maximum
    with np.errstate(invalid="ignore", over="ignore"):
        in_range = (values >= low) & (values <= high) & np.isfinite(values.astype(np.float32))
    return values, ~in_range


def as_feature(column: Column, feature: Feature) -> tuple[pa.Array, Mask]:
    """The feature's values in its dtype, and a mask ``[n]`` of invalid ones.

    Invalid values are replaced by the feature's default value.
    """
    if feature.dtype == "string":
        text = as_text(join_lists(column, feature.separator))
        return pc.fill_null(text, feature.default_value), pc.is_null(text).to_numpy(
            zero_copy_only=False
        )
    if feature.width > 1:
        return _vectors(simple_array(column), feature)
    if feature.dtype == "int64":
        integers, invalid = as_integers(column)
        return pa.array(np.where(invalid, feature.default_value, integers), pa.int64()), invalid
    with np.errstate(over="ignore"):
        values = as_floats(column).astype(np.float32)
    invalid = ~np.isfinite(values)
    return pa.array(
        np.where(invalid, np.float32(feature.default_value), values), pa.float32()
    ), invalid


def join_lists(column: Column, separator: str | None) -> Column:
    """Lists of single values as text with a separator, the form of multi-valued features.

    Other columns are returned unchanged.

    Missing and empty values of a list are left out. A list with a value that contains the separator
    is null: it would be split into other values.
    """
    array = simple_array(column)
    if separator is None or not is_list(array.type):
        return array
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        array = pa.array(array.to_pylist(), pa.large_list(array.type.value_type))
    rows = np.asarray(pc.list_parent_indices(array))
    values = as_text(pc.list_flatten(array))
    nonempty = np.asarray(pc.fill_null(pc.not_equal(values, ""), False))
    rows, values = rows[nonempty], values.filter(pa.array(nonempty))
    ends = np.cumsum(np.bincount(rows, minlength=len(array)))
    lists = pa.LargeListArray.from_arrays(pa.array(np.append(0, ends), pa.int64()), values)
    ambiguous = np.asarray(pc.is_null(array)).copy()
    ambiguous[rows[np.asarray(pc.match_substring(values, separator))]] = True
    return pc.if_else(pa.array(ambiguous), None, pc.binary_join(lists, separator))


def can_hold(kind: pa.DataType, feature: Feature) -> bool:
    """Whether a column of this Arrow type can hold any valid value of the feature."""
    if pa.types.is_dictionary(kind):
        return can_hold(kind.value_type, feature)
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return False
    if is_list(kind):
        is_split = feature.separator is not None and not pa.types.is_nested(kind.value_type)
        return feature.width > 1 or is_split
    if feature.width > 1:
        return _is_textual(kind)
    if feature.dtype == "string" or _is_textual(kind):
        return True
    return not (pa.types.is_temporal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_textual(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _vectors(array: pa.Array, feature: Feature) -> tuple[pa.Array, Mask]:
    if pa.types.is_string(array.type):
        array = pa.array([_parsed(text) for text in array.to_pylist()], pa.list_(pa.string()))
    kind = pa.int64() if feature.dtype == "int64" else pa.float32()
    matrix = np.full((len(array), feature.width), feature.default_value, kind.to_pandas_dtype())
    invalid = np.ones(len(array), bool)
    if is_list(array.type):
        has_width = np.asarray(
            pc.equal(pc.list_value_length(array), feature.width).fill_null(False)
        )
        single = Feature(name=feature.name, dtype=feature.dtype, fill_value=feature.fill_value)
        cells, cell_invalid = as_feature(array.filter(pa.array(has_width)).flatten(), single)
        matrix[has_width] = np.asarray(cells).reshape(-1, feature.width)
        invalid[has_width] = cell_invalid.reshape(-1, feature.width).any(axis=1)
    matrix[invalid] = feature.default_value
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), kind), feature.width), invalid


def _parsed(text: str | None) -> list[str] | None:
    """The cells of a JSON list; None for any other text."""
    try:
        values = json.loads(text, parse_int=str, parse_float=str) if text else None
    except (ValueError, RecursionError):
        return None
    return [str(value) for value in values] if isinstance(values, list) else None
