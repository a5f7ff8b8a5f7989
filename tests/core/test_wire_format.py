"""Varints against the protobuf library, and messages that are declared in code."""

import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml import wire_format
from tfrec_limaml.wire_messages import message_classes

NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 127, 128, 2**14 - 1, 2**14, 2**63, 2**64 - 1])
)


def _by_protobuf(number):
    """Field 1 of a message as a varint, without its tag; zero is left out of messages."""
    return wrappers_pb2.UInt64Value(value=number).SerializeToString()[1:] or b"\0"


@given(NUMBERS)
def test_a_varint_is_protobufs_and_is_read_back(number):
    assert wire_format.varint(number) == _by_protobuf(number)
    assert wire_format.read_varint(wire_format.varint(number)) == number


@given(st.lists(NUMBERS, max_size=20))
def test_many_varints_are_those_of_each(numbers):
    content, lengths = wire_format.varints(np.array(numbers, np.uint64).view(np.int64))
    found = [row[:length].tobytes() for row, length in zip(content, lengths, strict=True)]
    assert found == [wire_format.varint(number) for number in numbers]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
def test_a_field_opens_as_protobuf_opens_it(size):
    message = wrappers_pb2.BytesValue(value=bytes(size)).SerializeToString()
    assert wire_format.opening(1, size) + bytes(size) == (message or b"\x0a\0")


@pytest.mark.parametrize("kind", ["double", "*double", "map:double", "Nowhere"])
def test_a_type_that_is_not_declared_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"field 'x' of message 'M' must be .*, received '(do|No)"):
        message_classes("t", {"M": {"x": (1, kind)}, "N": {"y": (1, "M")}})
