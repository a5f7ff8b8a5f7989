"""Columns: what a caller may pass, and the bytes that TensorFlow reads back."""

from __future__ import annotations

import dataclasses

import hypothesis.extra.numpy as arrays
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from limaml_serving import RequestError, ServingError
from limaml_serving.client import wire
from limaml_serving.client.columns import RowReader
from limaml_serving.client.predict_request import RequestWriter, read_output
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.schema.task_keys import fits, task_key


def _sent(feature, values, dim=1, has=True):
    """The request for candidates with these values as TensorFlow's own messages read it: arrays by
    input.
    """
    rows = RowReader([feature], [["k"]]).read({"k": 1}, {feature.name: values})
    embedding = np.arange(dim, dtype=np.float32)[None]
    content = RequestWriter([feature], dim).write(
        "m", 3, [rows], [[embedding]], [[np.array([has])]]
    )
    return {
        name: tf.make_ndarray(tensor)
        for name, tensor in predict_pb2.PredictRequest.FromString(content).inputs.items()
    }


def _column(feature, values):
    """What arrives of the feature's values."""
    return _sent(feature, values)[feature.name]


def _number(dtype="float32", **more):
    return Feature(name="x", dtype=dtype, encoding="numeric", **more)


def _text(**more):
    return Feature(name="x", dtype="string", encoding="vocabulary", **more)


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
    sent = _sent(feature, array, dim, has)
    assert sent.keys() == {name, "meta_embedding", "has_meta_embedding"}
    assert sent[name].dtype == array.dtype
    assert sent[name].shape == array.shape
    assert sent[name].tobytes() == array.tobytes()
    assert sent["meta_embedding"].tolist() == [list(range(dim))]
    assert sent["has_meta_embedding"].tolist() == [has]


def test_tensorflow_reads_back_a_column_of_megabytes():
    array = np.arange(2**20, dtype=np.int64)
    assert (_column(_number("int64"), array) == array).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=6
    )
)
def test_tensorflow_reads_back_any_text(texts):
    assert [value.decode() for value in _column(_text(), texts)] == texts


def test_several_requests_are_laid_end_to_end_with_the_members_columns_repeated():
    reader = RowReader(
        [
            _number(),
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
            _number(),
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


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        np.array([1, 2.5]),
        np.array([1, 2.5], np.float16),
        pd.Series([1, 2.5]),
        (1, np.float32(2.5)),
    ],
)
def test_numbers_may_come_in_any_container(values):
    column = _column(_number(), values)
    assert column.dtype == np.float32
    assert column.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "values",
    [[1, -2], np.array([1, -2], np.int8), np.array([1.0, -2.0]), [True, -2], pd.Series([1, -2])],
)
def test_whole_numbers_may_come_as_any_exact_type(values):
    column = _column(_number("int64"), values)
    assert column.dtype == np.int64
    assert column.tolist() == [1, -2]


@pytest.mark.parametrize(
    "values",
    [
        ["a", "é"],
        np.array(["a", "é"]),
        np.array(["a", "é"], object),
        ["a", "é".encode()],
        pd.Series(["a", "é"]),
    ],
)
def test_text_may_come_in_any_container(values):
    assert _column(_text(), values).tolist() == [b"a", "é".encode()]


def test_bytes_that_are_no_text_arrive_as_they_are():
    assert _column(_text(), [b"\xff", "a"]).tolist() == [b"\xff", b"a"]


def test_numbers_given_for_text_become_what_task_records_hold():
    assert _column(_text(), [7, 7.5, True]).tolist() == [b"7", b"7.5", b"True"]


@pytest.mark.parametrize("bad", [[1.0, "a"], ["1"], [b"1"], [{}], [[1.0]], [1j], [[1], [2, 3]]])
def test_what_is_not_a_number_is_refused_by_the_features_name(bad):
    with pytest.raises(RequestError, match="feature 'x' needs"):
        _column(_number(), bad)


@pytest.mark.parametrize(
    "bad",
    [[2.5], [None, 2.5], [2**63], [2**70], np.array([2**63], np.uint64), [1e30], ["1"], [[1]]],
)
def test_what_is_not_a_whole_number_of_64_bits_is_refused(bad):
    with pytest.raises(RequestError, match="feature 'x' needs"):
        _column(_number("int64"), bad)


@pytest.mark.parametrize("bad", [[["a"]], [{}], ["\ud800"], [object()]])
def test_what_is_not_text_is_refused(bad):
    with pytest.raises(RequestError, match="feature 'x'"):
        _column(_text(), bad)


@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        (_number(fill_value=9.0), [1.0, None, np.nan, np.inf, 1e300], [1, 9, 9, 9, 9]),
        (_number(fill_value=9.0), np.array([1.0, np.nan], np.float32), [1, 9]),
        (_number(width=2, fill_value=9.0), [[1.0, None], [np.nan, 2.0]], [[1, 9], [9, 2]]),
        (_number("int64", fill_value=9), [1, None], [1, 9]),
        (_number("int64", fill_value=9), np.array([1.0, np.nan]), [1, 9]),
        (_text(fill_value="?"), ["a", None, float("nan")], [b"a", b"?", b"?"]),
        (_text(fill_value="?"), ["a", pd.NA, pd.NaT], [b"a", b"?", b"?"]),
        (_text(fill_value="?"), pd.Series(["a", None], dtype="string"), [b"a", b"?"]),
        (_number(fill_value=9.0), [1.0, pd.NA], [1, 9]),
        (_number("int64", fill_value=9), pd.Series([1, None], dtype="Int64"), [1, 9]),
    ],
)
def test_invalid_values_are_filled_and_reported_where_the_schema_says_so(feature, values, expected):
    rows = RowReader([feature], [["k"]]).read({"k": 1}, {"x": values})
    assert _column(feature, values).tolist() == expected
    assert rows.filled == ("x",)


@pytest.mark.parametrize("on_invalid", ["error", "skip"])
@pytest.mark.parametrize(
    "feature",
    [_number(on_invalid="error"), _number("int64", on_invalid="error"), _text(on_invalid="error")],
)
def test_without_a_filler_invalid_and_missing_values_are_errors_that_name_the_feature(
    feature, on_invalid
):
    feature = dataclasses.replace(feature, on_invalid=on_invalid)
    good = "a" if feature.dtype == "string" else 1
    with pytest.raises(RequestError, match=f"feature 'x' has a missing.*on_invalid: {on_invalid}"):
        _column(feature, [good, None])
    with pytest.raises(RequestError, match="feature 'x' is missing"):
        RowReader([feature], [["k"]]).read({"k": 1}, {"other": [1]})


def test_the_callers_own_arrays_are_never_written_to():
    values = np.array([1.0, np.nan], np.float32)
    _column(_number(), values)
    assert np.isnan(values[1])


def test_an_absent_feature_is_filled_once_for_all_candidates():
    rows = RowReader([_number(width=2, fill_value=3.0), Feature(name="y")], [["k"]]).read(
        {"k": 1}, {"y": [1, 2]}
    )
    assert np.frombuffer(rows.columns[0][1], np.float32).tolist() == [3.0, 3.0]
    assert rows.filled == ("x",)


@pytest.mark.parametrize(
    ("member", "candidates", "message"),
    [
        ({"x": 1}, {"x": [1]}, "'x' is given for the member and for the candidates"),
        ({}, {"x": [1, 2], "y": [1]}, "equal lengths"),
        ({}, {"x": 1}, "single values for"),
        ({}, {"x": "ab"}, "single values for"),
        ({}, {"x": np.str_("ab")}, "single values for"),
        ({}, {"x": np.array(1.0)}, "single values for"),
        ({}, "ab", "candidates must be a mapping"),
        ({}, [1, 2], "candidates must be a mapping"),
        ({"k": [1]}, {"x": [1]}, "key columns"),
        ({}, {"x": [1]}, "key column 'k' is missing"),
    ],
)
def test_malformed_requests_are_refused_with_the_reason(member, candidates, message):
    with pytest.raises(RequestError, match=message):
        RowReader([_number()], [["k"]]).read(
            {"k": 1, **member} if "missing" not in message else member, candidates
        )


def test_a_data_frame_of_candidates_is_read_as_its_columns():
    frame = pd.DataFrame({"x": pd.array([1, None], "Int64"), "k": ["a", pd.NA], "id": [7, 8]})
    frame.index = [5, 3]
    reader = RowReader([_number(fill_value=9.0)], [["k"]])
    rows = reader.read({}, frame)
    reader.check_known(frame)
    assert rows.count == 2
    assert np.frombuffer(rows.columns[0][1], np.float32).tolist() == [1, 9]
    assert rows.keys[0].keys == ("a", None)
    with pytest.raises(RequestError, match="no column that the model knows"):
        reader.check_known(frame[["id"]])
    with pytest.raises(RequestError, match="columns of the same name"):
        reader.read({"k": 1}, pd.DataFrame([[1, 2]], columns=["x", "x"]))
    assert reader.read({"k": 1}, frame[["x"]].iloc[:0]).count == 0
    assert reader.read({"k": pd.NA}, frame[["x"]]).keys[0].keys == (None,)


def test_task_keys_are_encoded_as_the_job_encodes_them():
    rows = RowReader([], [["a", "b"]]).read(
        {"a": "50%|x"}, {"b": np.array([1, 2, 1]), "id": [1, 2, 3]}
    )
    assert rows.keys[0].keys == ("50%25%7Cx|1", "50%25%7Cx|2")
    assert rows.keys[0].position.tolist() == [0, 1, 0]


def test_an_example_gives_the_member_what_is_the_members_and_is_read_without_filling():
    features = [
        Feature(name="age", role="meta", dtype="int64", encoding="vocabulary"),
        Feature(name="tab", role="meta", dtype="string", encoding="vocabulary", on_invalid="error"),
        Feature(name="kind", dtype="string", encoding="vocabulary"),
        Feature(name="image", width=2),
    ]
    reader = RowReader(features, [["user", "kind"], ["user", "kind", "tab"]])
    member, candidates = reader.example()
    assert member == {"user": "1", "kind": "text", "age": 1}
    assert candidates == [{"tab": "text", "image": [1.0, 1.0]}] * 2
    rows = reader.read(member, candidates)
    assert rows.filled == ()
    assert [keys.keys for keys in rows.keys] == [("1|text",), ("1|text|text",)]


def test_candidates_without_any_field_still_count():
    assert RowReader([], [["k"]]).read({"k": 1}, [{}, {}]).count == 2


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


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7.0, "7"),
        (np.float64(7.0), "7"),
        (True, "true"),
        (2**64 - 1, "18446744073709551615"),
        (b"a|b", "a%7Cb"),
        (float("nan"), None),
        ("", None),
        ("\ud800", None),
        (b"\xff", None),
        ("k" * 512, None),
    ],
)
def test_a_member_has_the_key_that_the_jobs_give_it_or_none(value, key):
    reader = RowReader([Feature(name="x", role="meta")], [["k"]])
    rows = reader.read({"k": value}, {"x": [1.0, 2.0]})
    assert rows.keys[0].keys == (key,)


_KEYS = st.one_of(
    st.text(max_size=5),
    st.text("ab|%é\ud800", max_size=4),
    st.integers(),
    st.sampled_from([None, 2.0, float("nan"), b"x", "a" * 510]),
)


@given(st.one_of(st.lists(st.text("ab\n", max_size=2), min_size=1), st.lists(_KEYS, min_size=1)))
def test_each_candidate_s_key_is_the_job_s_behind_what_its_definition_puts_before_it(values):
    candidates = {"item": values, "x": np.zeros(len(values), np.float32)}
    reader = RowReader([_number()], [["k"], ["item"]], ["", "%|item|"])
    _, keys = reader.read({"k": 1}, candidates).keys
    found = [keys.keys[place] for place in keys.position]
    made = [task_key([value]) for value in values]
    fit = [key is not None and fits(f"%|item|{key}") for key in made]
    expected = [f"%|item|{key}" if fine else None for key, fine in zip(made, fit, strict=True)]
    assert found == expected
