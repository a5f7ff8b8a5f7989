"""Task keys of whole Arrow columns, by the rules of `tfrec_limaml.schema.task_keys`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Mask
from tfrec_limaml.schema import task_keys

Column: TypeAlias = pa.ChunkedArray | pa.Array
UUID_BYTES = 16


def simple_array(column: Column) -> pa.Array:
    """One array of a simple type.

    Dictionaries are decoded, bytes are read as UTF-8 (null if they are not), and fixed-size
    binaries of 16 bytes are UUIDs.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES:
        return pa.array(
            [None if v is None else str(uuid.UUID(bytes=v)) for v in array.to_pylist()], pa.string()
        )
    if pa.types.is_fixed_size_binary(kind):
        array, kind = array.cast(pa.binary()), pa.binary()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return decode_utf8(array)
    return array


def decode_utf8(array: pa.Array) -> pa.Array:
    """Bytes as text; null if they are not UTF-8."""
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_text_or_none(value) for value in array.to_pylist()], pa.string())


def as_text(column: Column) -> pa.Array:
    """`task_keys.key_text` of every value, as a string array; empty text is kept."""
    array = simple_array(column)
    kind = array.type
    if pa.types.is_string(kind):
        return array
    if pa.types.is_null(kind) or pa.types.is_nested(kind):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind):
        array = array.cast(pa.float64())  # Arrow cannot encode float16 as a dictionary
        numbers = array.to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            is_integer = (numbers == np.floor(numbers)) & (np.abs(numbers) < task_keys.EXACT_FLOATS)
        if np.all(is_integer | ~np.isfinite(numbers)):
            return (
                pa.array(np.where(is_integer, numbers, 0), mask=~is_integer)
                .cast(pa.int64())
                .cast(pa.string())
            )
    encoded = array.dictionary_encode()
    texts = pa.array([task_keys.key_text(v) for v in _values(encoded.dictionary)], pa.string())
    return texts.take(encoded.indices)


def _values(array: pa.Array) -> list[Any]:
    """The values in Python; None for times that Python cannot hold."""
    try:
        return list(array.to_pylist())
    except (OverflowError, ValueError):
        return [_value(scalar) for scalar in array]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return None


def as_keys(column: Column) -> pa.Array:
    """`task_keys.key_text` of every value, as a string array."""
    text = as_text(column)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def join_keys(parts: Sequence[Column]) -> pa.ChunkedArray:
    """Task keys of rows whose key columns have these texts; null if one of them is null."""
    escaped = []
    for part in parts:
        array = part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part
        encoded = array.dictionary_encode()
        values = pc.replace_substring(encoded.dictionary, "%", "%25")
        escaped.append(pc.replace_substring(values, "|", "%7C").take(encoded.indices))
    if len(escaped) == 1:
        return pa.chunked_array([escaped[0]])
    return pa.chunked_array([pc.binary_join_element_wise(*escaped, "|")])


def fits(keys: Column) -> Mask:
    """Whether a store can hold each key, ``[n]``; False for nulls."""
    lengths = pc.fill_null(pc.binary_length(keys), 0)
    sizes = np.asarray(lengths)
    return np.asarray((sizes > 0) & (sizes <= task_keys.MAX_KEY_BYTES))


def _text_or_none(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
