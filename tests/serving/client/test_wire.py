"""Requests and answers as bytes: TensorFlow reads back what was written."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sent_requests import number, sent, sent_column, text
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from limaml_serving import ServingError
from limaml_serving.client import wire
from limaml_serving.client.columns import RowReader
from limaml_serving.client.predict_request import RequestWriter, read_output
from tfrec_limaml.schema.schema import Feature

_ARRAYS = st.tuples(
    st.sampled_from([np.float32, np.int64]),
    arrays.array_shapes(min_dims=1, max_dims=2, max_side=40),
).flatmap(
    lambda kind: arrays.arrays(
        *kind,
        elements={"allow_nan": False, "allow_infinity": False} if kind[0] is np.float32 else None,
    )
)


@settings(max_examples=60, deadline=None)
@given(
    array=_ARRAYS,
    dim=st.integers(1, 300),
    has=st.booleans(),
    name=st.text("xyz", min_size=1, max_size=200),
)
def test_tensorflow_reads_back_any_array_bit_for_bit(array, dim, has, name):
    width = array.shape[1] if array.ndim == 2 else 1
    array = array.reshape(len(array), *([width] if width > 1 else []))
    feature = Feature(name=name, dtype=array.dtype.name, encoding="numeric", width=width)
    found = sent(feature, array, dim, has)
    assert found.keys() == {name, "meta_embedding", "has_meta_embedding"}
    assert found[name].dtype == array.dtype
    assert found[name].shape == array.shape
    assert found[name].tobytes() == array.tobytes()
    assert found["meta_embedding"].tolist() == [list(range(dim))]
    assert found["has_meta_embedding"].tolist() == [has]


def test_tensorflow_reads_back_a_column_of_megabytes():
    array = np.arange(2**20, dtype=np.int64)
    assert (sent_column(number("int64"), array) == array).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=6
    )
)
def test_tensorflow_reads_back_any_text(texts):
    assert [value.decode() for value in sent_column(text(), texts)] == texts


def test_several_requests_are_laid_end_to_end_with_the_members_columns_repeated():
    reader = RowReader(
        [
            number(),
            Feature(name="y", width=2),
            Feature(name="z", dtype="string", encoding="vocabulary"),
        ],
        [["k"]],
    )
    rows = [
        reader.read({"k": 1, "x": 5.0, "z": "a"}, {"y": [[1, 2], [3, 4]]}),
        reader.read({"k": 2, "y": [7.0, 8.0]}, {"x": [6.0, 7.0, 8.0], "z": ["b", "c", "d"]}),
    ]
    embeddings = [[np.array([[1.0]], np.float32)], [np.array([[2.0], [3.0], [4.0]], np.float32)]]
    content = RequestWriter(
        [
            number(),
            Feature(name="y", width=2),
            Feature(name="z", dtype="string", encoding="vocabulary"),
        ],
        1,
    ).write("m", 3, rows, embeddings, [[np.array([True])], [np.array([False, True, False])]])
    request = predict_pb2.PredictRequest.FromString(content)
    assert (
        request.model_spec.name,
        request.model_spec.version.value,
        request.model_spec.signature_name,
    ) == ("m", 3, "serving_default")
    sent = {name: tf.make_ndarray(tensor).tolist() for name, tensor in request.inputs.items()}
    assert sent == {
        "x": [5, 5, 6, 7, 8],
        "y": [[1, 2], [3, 4], [7, 8], [7, 8], [7, 8]],
        "z": [b"a", b"a", b"b", b"c", b"d"],
        "meta_embedding": [[1], [1], [2], [3], [4]],
        "has_meta_embedding": [True, True, False, True, False],
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (wire.PredictRequest, predict_pb2.PredictRequest),
        (wire.PredictResponse, predict_pb2.PredictResponse),
        (wire.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataRequest),
        (wire.GetModelMetadataResponse, get_model_metadata_pb2.GetModelMetadataResponse),
    ],
)
def test_every_field_has_the_number_and_type_of_the_original(ours, theirs):
    def compare(mine, real):
        for field in mine.fields:
            other = real.fields_by_name[field.name]
            enum = other.type == other.TYPE_ENUM
            assert field.number == other.number
            if field.name == "float_val":  # packed, hence a block of bytes on the wire
                assert (field.type, other.is_packed) == (field.TYPE_BYTES, True)
                continue
            assert field.is_repeated == other.is_repeated
            assert field.type == (field.TYPE_INT32 if enum else other.type)
            if field.message_type is not None:
                compare(field.message_type, other.message_type)

    compare(ours.DESCRIPTOR, theirs.DESCRIPTOR)
    assert (
        tf.float32.as_datatype_enum,
        tf.string.as_datatype_enum,
        tf.int64.as_datatype_enum,
        tf.bool.as_datatype_enum,
    ) == (wire.DT_FLOAT, wire.DT_STRING, wire.DT_INT64, wire.DT_BOOL)


@pytest.mark.parametrize("content", [True, False])
def test_scores_are_read_whichever_way_the_server_wrote_them(content):
    response = predict_pb2.PredictResponse()
    values = np.array([0.25, -3.0], np.float32)
    proto = tf.make_tensor_proto(values)
    if not content:
        proto.ClearField("tensor_content")
        proto.float_val.extend(values)
    response.outputs["logit"].CopyFrom(proto)
    back = wire.PredictResponse.FromString(response.SerializeToString())
    assert read_output(back, "logit", 2).tolist() == [0.25, -3.0]


@pytest.mark.parametrize(
    "tensor",
    [
        tf.make_tensor_proto([1.0]),
        tf.make_tensor_proto([1, 2]),
        tf.make_tensor_proto([[1.0, 2.0]]),
        None,
    ],
)
def test_an_answer_that_is_not_one_score_per_candidate_is_refused(tensor):
    response = predict_pb2.PredictResponse()
    if tensor is not None:
        response.outputs["logit"].CopyFrom(tensor)
    with pytest.raises(ServingError, match="output"):
        read_output(wire.PredictResponse.FromString(response.SerializeToString()), "logit", 2)
