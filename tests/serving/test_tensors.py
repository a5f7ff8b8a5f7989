"""TensorProtos: what is accepted equals TensorFlow's own reading; what is refused is refused before
anything is allocated.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from tensorflow.core.framework import tensor_pb2

from limaml_serving.server.encoding import encode
from limaml_serving.server.errors import StatusError
from limaml_serving.server.limits import Budget
from limaml_serving.server.tensors import TensorSpec, decode

MIB = 1024 * 1024
NUMPY_DTYPES = "f4 f8 f2 ? i1 i2 i4 i8 u1 u2 u4 u8 c8 c16"


def spec(dtype, shape=None):
    return TensorSpec(name="x", tensor="x:0", dtype=tf.as_dtype(dtype), shape=shape)


def read(proto, shape=None, *, dtype=None, rows=1000, remaining=MIB, strict=True):
    budget = Budget(rows=rows, remaining=remaining, strict=strict)
    return decode(spec(dtype or proto.dtype, shape), proto, budget)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from([*NUMPY_DTYPES.split(), "bfloat16", "string"]))
    shape = draw(numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if dtype == "string":
        return draw(numpy_strategies.arrays(object, shape, elements=st.binary(max_size=9)))
    if dtype == "bfloat16":
        return draw(
            numpy_strategies.arrays(np.float32, shape, elements=st.floats(-9, 9, width=16))
        ).astype(tf.bfloat16.as_numpy_dtype)
    return draw(numpy_strategies.arrays(dtype, shape))


@given(arrays())
def test_an_array_survives_encoding_and_decoding(array):
    dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    proto = encode(spec(dtype), array)
    assert not proto.tensor_content
    np.testing.assert_array_equal(read(proto), array)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


@given(arrays())
def test_what_tensorflow_encodes_is_decoded_as_tensorflow_does(array):
    proto = tf.make_tensor_proto(array, dtype=tf.string if array.dtype == object else None)
    np.testing.assert_array_equal(read(proto), array)


@given(st.integers(1, 6), st.integers(0, 6))
def test_fewer_values_repeat_the_last_one_as_in_tensorflow(count, more):
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=range(count))
    proto.tensor_shape.dim.add().size = count + more
    np.testing.assert_array_equal(read(proto), tf.make_ndarray(proto))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": tf.float64.as_datatype_enum}, "expected dtype float32, received float64"),
        ({"dtype": 0}, "received number 0"),
        ({"dtype": 9999}, "received number 9999"),
        ({"dims": [-1]}, r"must be fully known, received \[-1\]"),
        ({"dims": [3, -(2**62)]}, "must be fully known"),
        ({"dims": [2]}, "3 values do not fit"),
        ({"float_val": []}, "0 values do not fit"),
        ({"dims": [2**62]}, "more than the 1000"),
        ({"dims": [2, 2**62]}, "bytes once decoded"),
        ({"dims": [1000] * 30}, "bytes once decoded"),
        ({"dims": [1] * 40}, "rank 40"),
        ({"float_val": [], "tensor_content": b"123"}, "3 bytes of tensor_content, expected 12"),
        ({"float_val": [], "tensor_content": b"x" * 13}, "13 bytes of tensor_content, expected 12"),
        (
            {"float_val": [], "tensor_content": b"x", "dims": [2, 2**62]},
            "1 bytes of tensor_content",
        ),
    ],
)
def test_a_tensor_that_lies_about_itself_is_refused(change, words):
    fields = {"dtype": tf.float32.as_datatype_enum, "float_val": [1.0, 2.0, 3.0], **change}
    proto = tensor_pb2.TensorProto(
        **{name: value for name, value in fields.items() if name != "dims"}
    )
    for size in change.get("dims", [3]):
        proto.tensor_shape.dim.add().size = size
    with pytest.raises(StatusError, match=words) as caught:
        read(proto, dtype=tf.float32)
    assert caught.value.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("shape", "dims", "fits"),
    [
        ((None, 4), [2, 4], True),
        ((None, 4), [0, 4], True),
        ((None, 4), [2, 3], False),
        ((None,), [], False),
        ((None,), [2, 1], False),
        ((), [], True),
        (None, [1, 2, 3], True),
    ],
)
def test_a_shape_must_fit_the_signature(shape, dims, fits):
    proto = tf.make_tensor_proto(np.zeros(dims, np.float32))
    if fits:
        assert read(proto, shape).shape == tuple(dims)
    else:
        with pytest.raises(StatusError, match="expected shape"):
            read(proto, shape)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex64", "string", "half"])
@pytest.mark.parametrize(("values", "size"), [(5, 3), (0, 3), (1, 3), (0, 0)])
def test_values_that_do_not_fit_are_read_as_tensorflow_reads_them(dtype, values, size):
    elements = {"string": [b"a", b"b"], "bool": [True, False]}.get(dtype, [1, 2]) * 3
    proto = encode(spec(dtype), np.array(elements[:values], tf.as_dtype(dtype).as_numpy_dtype))
    proto.tensor_shape.dim[0].size = size
    read_by_tensorflow = tf.io.parse_tensor(proto.SerializeToString(), dtype)
    np.testing.assert_array_equal(read(proto, strict=False), read_by_tensorflow.numpy())


@pytest.mark.parametrize("strings", [b"", b"a\0", b"\0\0"])
def test_a_scalar_string_survives_both_ways(strings):
    proto = encode(spec("string", ()), strings)
    assert proto.tensor_shape.dim == []
    assert tf.make_ndarray(proto).item() == strings
    assert read(proto, strict=False).item() == strings
    content = tf.make_tensor_proto(strings)
    content.tensor_content = bytes([len(strings)]) + strings
    content.ClearField("string_val")
    assert read(content, strict=False).item() == strings


@pytest.mark.parametrize(
    ("dims", "right"), [([2**40, 0], True), ([0, 2**62], False), ([0, 2**62, 2**62], False)]
)
def test_an_empty_tensor_with_sizes_beyond_all_arrays_is_refused(dims, right):
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)
    for size in dims:
        proto.tensor_shape.dim.add().size = size
    if right:
        assert read(proto, strict=False, rows=2**62).shape == tuple(dims)
    else:
        with pytest.raises(StatusError, match="too large"):
            read(proto, strict=False, rows=2**62)


@pytest.mark.parametrize("dtype", [tf.variant, tf.resource])
def test_what_lives_in_the_runtime_alone_cannot_travel(dtype):
    with pytest.raises(StatusError, match="cannot carry"):
        read(tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum))
    with pytest.raises(StatusError, match="cannot carry"):
        encode(spec(dtype), np.zeros(1))


def test_encoding_stops_where_nobody_waits_any_longer():
    def gone():
        raise RuntimeError("the deadline has passed")

    with pytest.raises(RuntimeError, match="deadline"):
        encode(spec("int64"), np.arange(10), gone)


def test_an_unknown_rank_is_refused():
    proto = tf.make_tensor_proto([1.0])
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(StatusError, match="unknown rank"):
        read(proto)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 256), ("uint8", -1), ("int8", 128), ("uint16", 70000), ("half", 70000)],
)
def test_a_value_that_its_dtype_cannot_hold_is_refused(dtype, value):
    proto = tensor_pb2.TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum)
    getattr(proto, "half_val" if dtype == "half" else "int_val").append(value)
    with pytest.raises(StatusError, match="does not fit dtype"):
        read(proto)


def test_half_a_complex_number_is_refused():
    with pytest.raises(StatusError, match="values do not fit"):
        read(
            tensor_pb2.TensorProto(
                dtype=tf.complex64.as_datatype_enum, scomplex_val=[1.0, 2.0, 3.0]
            ),
            dtype=tf.complex64,
        )


@pytest.mark.parametrize("content", [b"\x05ab", b"\xff" * 12, b"\x01\x01a"])
def test_packed_strings_whose_lengths_lie_are_refused(content):
    proto = tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum, tensor_content=content)
    proto.tensor_shape.dim.add().size = 3
    with pytest.raises(StatusError):
        read(proto)


def test_a_dtype_without_a_field_is_refused_unless_it_comes_as_content():
    proto = tensor_pb2.TensorProto(dtype=tf.qint8.as_datatype_enum, int_val=[1])
    with pytest.raises(StatusError, match="send dtype qint8 as tensor_content"):
        read(proto)


def test_a_small_message_cannot_make_the_server_allocate_much():
    repeated_float = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[1.0])
    repeated_float.tensor_shape.dim.add().size = 50 * MIB
    repeated_string = tensor_pb2.TensorProto(
        dtype=tf.string.as_datatype_enum, string_val=[b"x" * 1000]
    )
    repeated_string.tensor_shape.dim.add().size = 100_000
    tracemalloc.start()
    for proto in (repeated_float, repeated_string):
        with pytest.raises(StatusError, match="bytes once decoded"):
            read(proto, rows=10**12, remaining=64 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


def test_the_inputs_of_one_request_share_one_budget():
    proto = tf.make_tensor_proto(np.zeros(100, np.float32))
    budget = Budget(rows=1000, remaining=900)
    for _ in range(2):
        decode(spec(tf.float32), proto, budget)
    with pytest.raises(StatusError, match="more than the 100 left"):
        decode(spec(tf.float32), proto, budget)
