"""Decodes TensorProto messages to arrays; every check comes before any allocation."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

from limaml_serving.server.errors import describe, invalid
from limaml_serving.server.limits import Budget
from tfrec_limaml.wording import counted

#: Types whose values exist in the runtime only; a request cannot carry them.
RUNTIME_ONLY = frozenset({tf.variant, tf.resource})
_RUNTIME_ONLY_NUMBERS = frozenset(dtype.as_datatype_enum for dtype in RUNTIME_ONLY)

#: Highest rank: the limit of all NumPy releases.
_MAX_RANK = 32

#: Size of one string in the runtime without its characters (bytes).
_STRING_OVERHEAD = 24

#: The TensorProto field of a dtype's values, and their encoding: half precision comes as bit
#: patterns, complex numbers as pairs.
FIELDS: dict[tf.DType, tuple[str, type[np.generic]]] = {
    tf.float32: ("float_val", np.float32),
    tf.float64: ("double_val", np.float64),
    tf.int64: ("int64_val", np.int64),
    tf.int32: ("int_val", np.int32),
    tf.int16: ("int_val", np.int16),
    tf.int8: ("int_val", np.int8),
    tf.uint8: ("int_val", np.uint8),
    tf.uint16: ("int_val", np.uint16),
    tf.uint32: ("uint32_val", np.uint32),
    tf.uint64: ("uint64_val", np.uint64),
    tf.bool: ("bool_val", np.bool_),
    tf.string: ("string_val", np.object_),
    tf.half: ("half_val", np.uint16),
    tf.bfloat16: ("half_val", np.uint16),
    tf.complex64: ("scomplex_val", np.float32),
    tf.complex128: ("dcomplex_val", np.float64),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        name: Its name in requests and responses.
        tensor: Name of the tensor in the graph.
        dtype: Element type.
        shape: Sizes, ``None`` for a free axis; ``None`` as a whole for unknown rank.
    """

    name: str
    tensor: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    @classmethod
    def from_info(cls, name: str, info: Any) -> TensorSpec:
        """From a SavedModel's ``TensorInfo``."""
        shape = info.tensor_shape
        has_rank = info.HasField("tensor_shape") and not shape.unknown_rank
        sizes = tuple(None if d.size < 0 else d.size for d in shape.dim) if has_rank else None
        return cls(name=name, tensor=info.name, dtype=tf.as_dtype(info.dtype), shape=sizes)

    # Cached, because TensorFlow computes them again at each access.
    @functools.cached_property
    def number(self) -> int:
        """The dtype's number in a TensorProto."""
        return int(self.dtype.as_datatype_enum)

    @functools.cached_property
    def numpy(self) -> np.dtype[Any]:
        """The dtype in NumPy."""
        return np.dtype(self.dtype.as_numpy_dtype)

    @functools.cached_property
    def is_text(self) -> bool:
        """Whether elements are strings."""
        return bool(self.dtype == tf.string)


def decode(spec: TensorSpec, proto: tensor_pb2.TensorProto, budget: Budget) -> np.ndarray:
    """The array that `proto` holds.

    As in TensorFlow, fewer values than elements repeat the last value, no value stands for zeros or
    empty strings, and values beyond the last element are dropped; strict budgets refuse the latter
    two. The graph decides which shapes it takes, unless the budget is strict.

    Raises:
        StatusError: INVALID_ARGUMENT for another dtype than the signature's, content that
            disagrees with the shape, or more than the budget allows.
    """
    if spec.number in _RUNTIME_ONLY_NUMBERS:
        raise invalid(f"input {spec.name}: a request cannot carry dtype {spec.dtype.name}")
    if proto.dtype != spec.number:
        raise invalid(
            f"input {spec.name}: expected dtype {spec.dtype.name}, received "
            f"{_dtype_name(proto.dtype)}"
        )
    shape = _check_shape(spec, proto.tensor_shape, budget)
    elements = math.prod(shape)
    if proto.tensor_content:
        return _from_content(spec, proto, shape, elements, budget)
    return _from_values(spec, proto, shape, elements, budget)


def _check_shape(
    spec: TensorSpec, proto: tensor_shape_pb2.TensorShapeProto, budget: Budget
) -> tuple[int, ...]:
    shape = tuple([dim.size for dim in proto.dim])  # a list is faster than a generator
    if proto.unknown_rank or min(shape, default=0) < 0:
        raise invalid(
            f"input {spec.name}: the shape must be fully known, received {_describe(proto)}"
        )
    if len(shape) > _MAX_RANK:
        raise invalid(f"input {spec.name}: rank {len(shape)} is more than {_MAX_RANK}")
    if budget.strict and spec.shape is not None:
        fits = len(shape) == len(spec.shape) and all(
            expected_size in (None, size)
            for expected_size, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            expected = [-1 if size is None else size for size in spec.shape]
            raise invalid(
                f"input {spec.name}: expected shape {expected} (-1 is free), received {list(shape)}"
            )
    if shape and shape[0] > budget.rows:
        raise invalid(
            f"input {spec.name}: {counted(shape[0], 'row')}, more than the {budget.rows} that "
            "this server takes in one request"
        )
    return shape


def _from_content(
    spec: TensorSpec,
    proto: tensor_pb2.TensorProto,
    shape: tuple[int, ...],
    elements: int,
    budget: Budget,
) -> np.ndarray:
    content = proto.tensor_content
    if spec.is_text:
        # Each string takes at least its length byte, so that the content bounds what the runtime
        # allocates.
        if elements > len(content):
            raise invalid(
                f"input {spec.name}: {len(content)} bytes of tensor_content do not fit shape "
                f"{list(shape)}"
            )
        budget.take(spec.name, len(content) + elements * _STRING_OVERHEAD)
        try:
            strings = tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy()
        except tf.errors.OpError as error:
            raise invalid(
                f"input {spec.name}: tensor_content does not hold {elements} strings"
            ) from error
        # A scalar comes as bytes.
        return _object_array([strings]).reshape(()) if isinstance(strings, bytes) else strings
    expected = elements * spec.numpy.itemsize
    if len(content) != expected:
        raise invalid(
            f"input {spec.name}: {len(content)} bytes of tensor_content, expected {expected} for "
            f"shape {list(shape)} of {spec.dtype.name}"
        )
    budget.take(spec.name, expected)
    return _shaped(spec, np.frombuffer(content, spec.numpy), shape)


def _from_values(
    spec: TensorSpec,
    proto: tensor_pb2.TensorProto,
    shape: tuple[int, ...],
    elements: int,
    budget: Budget,
) -> np.ndarray:
    if spec.dtype not in FIELDS:
        raise invalid(f"input {spec.name}: send dtype {spec.dtype.name} as tensor_content")
    field, stored_as = FIELDS[spec.dtype]
    values = getattr(proto, field)
    per_element = 2 if spec.dtype.is_complex else 1
    count, remainder = divmod(len(values), per_element)
    if remainder or (budget.strict and (count > elements or (count == 0 and elements > 0))):
        raise invalid(
            f"input {spec.name}: {len(values)} values do not fit shape {list(shape)} of "
            f"{elements} elements"
        )
    if count > elements or spec.is_text:  # a list of strings is read faster than their field
        values = values[: elements * per_element]
    budget.take(spec.name, _decoded_size(spec, values, elements))
    try:
        array = np.array(values, dtype=stored_as).view(spec.numpy)
        array = _filled_up(spec, array, elements)
    except (ValueError, OverflowError) as error:
        raise invalid(
            f"input {spec.name}: a value does not fit dtype {spec.dtype.name}: {describe(error)}"
        ) from error
    return _shaped(spec, array, shape)


def _filled_up(spec: TensorSpec, array: np.ndarray, elements: int) -> np.ndarray:
    """`array` with its last value repeated up to `elements`; zeros or empty strings if empty."""
    if len(array) >= elements:
        return array
    last = array[-1] if len(array) else b"" if spec.is_text else 0
    return np.concatenate([array, np.full(elements - len(array), last, dtype=array.dtype)])


def _shaped(spec: TensorSpec, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return array.reshape(shape)
    except ValueError as error:  # an empty tensor with a size beyond what arrays can have
        raise invalid(f"input {spec.name}: shape {list(shape)} is too large") from error


def _object_array(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def _decoded_size(spec: TensorSpec, values: Any, elements: int) -> int:
    if not spec.is_text:
        return elements * spec.numpy.itemsize
    last = len(values[-1]) if len(values) else 0
    repeated = (elements - len(values)) * last
    return sum(map(len, values)) + repeated + elements * _STRING_OVERHEAD


def _describe(shape: tensor_shape_pb2.TensorShapeProto) -> str:
    return "unknown rank" if shape.unknown_rank else str([dim.size for dim in shape.dim][:32])


def _dtype_name(number: int) -> str:
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"number {number}"
