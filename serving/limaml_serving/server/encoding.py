"""Encodes arrays as TensorProto messages, directly from their buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from limaml_serving.server.errors import describe, invalid
from limaml_serving.server.tensors import FIELDS, RUNTIME_ONLY, TensorSpec
from tfrec_limaml.wire_format import opening

#: Types whose packed field has the bytes of the array itself, by field number: fixed-width values
#: in little-endian order, and booleans, one byte each.
_PACKED = {
    tf.float32: 5,
    tf.float64: 6,
    tf.complex64: 9,
    tf.bool: 11,
    tf.complex128: 12,
}
#: Values that are converted to Python objects at a time; between two portions other threads run.
_PORTION = 8192


def encoded_size(value: Any) -> int:
    """A lower bound of the bytes that the values of an output take."""
    array = value if isinstance(value, np.ndarray) else np.asarray(value, np.object_)
    if array.dtype == np.object_:
        return sum(len(item) for item in array.flat if isinstance(item, bytes))
    return array.nbytes


def encode(
    spec: TensorSpec, value: Any, check: Callable[[], object] = lambda: None
) -> tensor_pb2.TensorProto:
    """An output as a TensorProto, its values in the field of its dtype, as in TensorFlow Serving.

    Args:
        spec: The output.
        value: An array; a scalar string comes as bytes.
        check: Called between portions; raises if the client no longer waits.

    Raises:
        StatusError: INVALID_ARGUMENT for a dtype that a response cannot carry.
    """
    if spec.dtype in RUNTIME_ONLY:
        raise invalid(f"output {spec.name}: a response cannot carry dtype {spec.dtype.name}")
    if spec.dtype not in FIELDS:
        return _encode_rare(spec, value)
    proto = tensor_pb2.TensorProto()
    array = np.asarray(value, np.object_ if spec.dtype == tf.string else None)
    proto.dtype = spec.dtype.as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if array.size == 0:
        return proto
    number = _PACKED.get(spec.dtype)
    if number is not None:
        content = np.ascontiguousarray(array).tobytes()
        proto.MergeFromString(opening(number, len(content)) + content)
        return proto
    field, stored_as = FIELDS[spec.dtype]
    flat = array.reshape(-1).view(stored_as)
    values = getattr(proto, field)
    for start in range(0, flat.size, _PORTION):
        check()
        values.extend(flat[start : start + _PORTION].tolist())
    return proto


def _encode_rare(spec: TensorSpec, value: Any) -> tensor_pb2.TensorProto:
    try:
        return tf.make_tensor_proto(value, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        raise invalid(
            f"output {spec.name}: a response cannot carry dtype {spec.dtype.name}: "
            f"{describe(error)}"
        ) from error
