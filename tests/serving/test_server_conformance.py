"""What a client of TensorFlow Serving can rely on; runs against any server
(``--serving-target``).
"""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, predict_pb2

AVAILABLE = 30


def test_predict_scores_rows_with_and_without_an_embedding(client):
    assert client.logits(version=1) == [111.0, 1.0]


def test_the_highest_version_answers_when_none_is_named(client, rows):
    answer = client.predict(rows)
    assert client.logits() == [112.0, 2.0]
    assert (answer.model_spec.name, answer.model_spec.version.value) == (client.name, 2)
    assert answer.model_spec.signature_name == "serving_default"


def test_a_label_means_its_version(client):
    assert client.logits(label="stable") == [111.0, 1.0]
    assert client.logits(label="canary") == [112.0, 2.0]


def test_all_outputs_are_answered_without_a_filter_and_only_the_named_ones_with_one(client, rows):
    assert set(client.predict(rows).outputs) == {"logit", "probability", "country"}
    assert set(client.predict(rows, outputs=("country", "logit")).outputs) == {"country", "logit"}


def test_values_come_in_the_field_of_their_dtype(client, rows):
    outputs = client.predict(rows, version=1).outputs
    assert list(outputs["logit"].float_val) == [111.0, 1.0]
    assert list(outputs["country"].string_val) == [b"CH", b"XX"]
    assert not outputs["logit"].tensor_content


def test_every_dtype_survives_the_way_there_and_back(client, kinds):
    values = {
        dtype.name: tf.cast(tf.constant([0, 1, 3]), dtype).numpy()
        for dtype in kinds
        if dtype != tf.string
    }
    values["string"] = np.array([b"", b"\x00\xff", "é".encode()], object)
    answer = client.predict(
        {name: tf.make_tensor_proto(value) for name, value in values.items()}, signature="kinds"
    )
    for name, value in values.items():
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs[name]), value, err_msg=name)


def test_values_may_come_as_typed_fields_and_the_last_one_repeats(client):
    repeated = tf.make_tensor_proto([0.0], shape=[3])
    repeated.float_val[:] = [1.0, 2.0]
    repeated.tensor_content = b""
    answer = client.predict({"anything": repeated}, signature="total", version=1)
    assert tf.make_ndarray(answer.outputs["total"]) == 1.0 + 2.0 + 2.0 + 1.0


def test_strings_may_come_as_tensor_content(client, rows):
    proto = tf.make_tensor_proto([b"CH", b"XX"])
    packed = type(proto)(
        dtype=proto.dtype, tensor_shape=proto.tensor_shape, tensor_content=b"\x02\x02CHXX"
    )
    answer = client.predict({**rows, "country": packed}, version=1)
    assert list(answer.outputs["logit"].float_val) == [111.0, 1.0]


def test_no_rows_give_no_scores(client):
    none = {
        "country": np.zeros(0, object),
        "meta_embedding": np.zeros((0, 4), np.float32),
        "has_meta_embedding": np.zeros(0, bool),
    }
    none["country"] = tf.make_tensor_proto([], dtype=tf.string, shape=[0])
    assert list(client.predict(none).outputs["logit"].float_val) == []


@pytest.mark.parametrize(
    ("choice", "code", "words"),
    [
        ({"name": "nobody"}, "NOT_FOUND", "Servable not found for request: Latest(nobody)"),
        ({"name": "../../etc/passwd"}, "NOT_FOUND", "Servable not found for request"),
        ({"name": ""}, "INVALID_ARGUMENT", "no name"),
        ({"version": 77}, "NOT_FOUND", "Servable not found for request: Specific(conformance, 77)"),
        ({"version": -1}, "NOT_FOUND", "Servable not found for request"),
        ({"label": "nightly"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nightly"),
        ({"signature": "guess"}, "FAILED_PRECONDITION", 'Serving signature key "guess" not found'),
        (
            {"outputs": ("guess",)},
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: guess",
        ),
        ({"outputs": ("logit", "logit")}, "INVALID_ARGUMENT", "duplicate output tensor alias"),
    ],
)
def test_an_unknown_model_version_label_signature_or_output_is_refused_with_its_name(
    client, rows, refusal, choice, code, words
):
    got_code, message = refusal(client.predict, rows, **choice)
    assert got_code == code
    assert words in message


def test_a_request_without_a_model_spec_is_refused(client, refusal):
    code, message = refusal(client.prediction.Predict, predict_pb2.PredictRequest())
    assert code == "INVALID_ARGUMENT"
    assert "Missing ModelSpec" in message


def test_missing_and_extra_inputs_are_named(client, rows, refusal):
    less = {name: value for name, value in rows.items() if name != "country"}
    code, message = refusal(client.predict, less)
    assert code == "INVALID_ARGUMENT"
    assert "country" in message
    code, message = refusal(client.predict, {**rows, "surplus": [1.0]})
    assert code == "INVALID_ARGUMENT"
    assert "surplus" in message
    code, message = refusal(client.predict, {**less, "land": [b"CH", b"XX"]})
    assert code == "INVALID_ARGUMENT"
    assert refusal(client.predict, {})[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "change",
    [
        {"meta_embedding": [["1", "2", "3", "4"]] * 2},
        {"meta_embedding": np.zeros((2, 4), np.float64)},
        {"meta_embedding": np.zeros(4, np.float32)},
        {"meta_embedding": np.float32(1)},
        {"meta_embedding": np.zeros((3, 4), np.float32)},
        {"country": [1, 2]},
    ],
    ids=["strings", "doubles", "vector", "scalar", "rows", "integers"],
)
def test_a_wrong_dtype_rank_or_size_is_an_invalid_argument_and_the_server_goes_on(
    client, rows, refusal, change
):
    assert refusal(client.predict, {**rows, **change})[0] == "INVALID_ARGUMENT"
    assert client.logits(version=1) == [111.0, 1.0]


def test_the_graph_and_not_the_signature_decides_about_shapes(client, rows):
    narrow = {**rows, "meta_embedding": [[1.0, 2.0, 3.0]] * 2}
    assert list(client.predict(narrow, version=1).outputs["logit"].float_val) == [107.0, 1.0]


@pytest.mark.parametrize(
    ("values", "read"), [([1, 2, 3, 4, 5], 6.0), ([], 0.0), ([2.0], 6.0)], ids=["5", "none", "1"]
)
def test_values_are_dropped_zero_or_repeated_to_fit_the_shape(client, values, read):
    proto = tf.make_tensor_proto(np.zeros(0, np.float32), shape=[0])
    proto.tensor_shape.dim[0].size = 3
    proto.tensor_content = b""
    proto.float_val[:] = values
    answer = client.predict({"anything": proto}, signature="total", version=1)
    assert list(answer.outputs["total"].float_val) == [read + 1.0]


def test_a_run_stops_at_its_deadline_and_leaves_the_server_usable(client, refusal):
    for _ in range(8):
        assert (
            refusal(client.predict, {"count": np.array([10**6])}, signature="spin", timeout=0.2)[0]
            == "DEADLINE_EXCEEDED"
        )
    assert client.logits(version=1) == [111.0, 1.0]


def test_a_cancelled_call_ends_as_cancelled(client):
    call = client.prediction.Predict.future(
        client.request({"count": np.array([10**6])}, signature="spin"), timeout=1
    )
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    assert client.logits(version=1) == [111.0, 1.0]


def test_the_status_of_all_versions_and_of_one(client, refusal):
    assert client.status() == {1: (AVAILABLE, ""), 2: (AVAILABLE, "")}
    assert client.status(version=2) == {2: (AVAILABLE, "")}
    assert refusal(client.status, version=9) == (
        "NOT_FOUND",
        "Could not find version 9 of model conformance",
    )
    assert refusal(client.status, name="nobody") == (
        "NOT_FOUND",
        "Could not find any versions of model nobody",
    )


def test_metadata_holds_the_signatures_of_a_version(client, refusal):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    client.fill_spec(request.model_spec, label="stable")
    answer = client.prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert answer.model_spec.version.value == 1
    assert set(signatures.signature_def["serving_default"].inputs) == {
        "country",
        "meta_embedding",
        "has_meta_embedding",
    }
    request.metadata_field[:] = ["weather"]
    assert refusal(client.prediction.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"
    request.metadata_field[:] = []
    assert refusal(client.prediction.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"


def test_a_reload_without_a_model_list_is_refused(client, refusal):
    assert refusal(client.reload, "")[0] == "INVALID_ARGUMENT"


def test_many_clients_at_once_get_their_own_answers(client, rows, is_other):
    # By default TensorFlow Serving refuses more than four requests per CPU at once.
    at_once = 4 if is_other else 64
    for start in range(0, 64, at_once):
        calls = []
        for number in range(start, start + at_once):
            embedding = np.full((2, 4), number, np.float32)
            request = client.request({**rows, "meta_embedding": embedding}, version=1 + number % 2)
            call = client.prediction.Predict.future(request, timeout=30)
            calls.append((101.0 + 4 * number + number % 2, call))
        for expected, call in calls:
            assert call.result().outputs["logit"].float_val[0] == expected


def test_other_inference_methods_are_not_this_servers_business(client, is_other, refusal):
    if is_other:
        pytest.skip("a full TensorFlow Serving has them")
    assert (
        refusal(client.prediction.Classify, classification_pb2.ClassificationRequest())[0]
        == "UNIMPLEMENTED"
    )
