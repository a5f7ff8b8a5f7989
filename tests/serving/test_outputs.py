"""Outputs of odd kinds and sizes, and signatures that say little, through the whole server."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from waiting import wait_for


def save(directory, signatures, drop_shapes=False):
    """Writes a SavedModel of the given functions, each of one float input ``x`` of any shape."""
    module = tf.Module()
    anything = tf.TensorSpec(None, tf.float32, "x")
    made = {
        name: tf.function(function, input_signature=[anything]).get_concrete_function()
        for name, function in signatures.items()
    }
    tf.saved_model.save(module, str(directory), signatures=made)
    if drop_shapes:
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        path = directory / "saved_model.pb"
        model = SavedModel.FromString(path.read_bytes())
        for signature in model.meta_graphs[0].signature_def.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                info.ClearField("tensor_shape")
        path.write_bytes(model.SerializeToString())


@pytest.fixture
def served(serve, connect, tmp_path):
    def start(signatures, drop_shapes=False, **settings):
        save(tmp_path / "odd" / "1", signatures, drop_shapes)
        server = serve({"odd": tmp_path / "odd"}, **settings)
        return server, connect(server.target, name="odd")

    return start


def test_a_signature_without_shapes_takes_any_shape(served):
    signatures = {"serving_default": lambda x: {"y": x / 2.0 + 3.0}}
    _, client = served(signatures, drop_shapes=True)
    for x in ([1.0, 2.0], [[1.0], [2.0]], 4.0):
        answer = client.predict({"x": np.float32(x)})
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), np.float32(x) / 2 + 3)


def test_a_scalar_string_is_answered_byte_for_byte(served):
    signatures = {"serving_default": lambda x: {"y": tf.constant(b"a\0b\0"), "z": x}}
    _, client = served(signatures)
    output = client.predict({"x": np.float32(1)}).outputs["y"]
    assert (list(output.string_val), len(output.tensor_shape.dim)) == ([b"a\0b\0"], 0)


@pytest.mark.parametrize(("shape", "right"), [([0, 2**40], True), ([0, 2**62], False)])
def test_an_empty_output_of_any_shape_is_right_or_refused(served, refusal, shape, right):
    signatures = {"serving_default": lambda x: {"y": tf.reshape(x, tf.constant(shape, tf.int64))}}
    _, client = served(signatures)
    inputs = {"x": np.zeros(0, np.float32)}
    if right:
        output = client.predict(inputs).outputs["y"]
        assert [dim.size for dim in output.tensor_shape.dim] == shape
    else:
        assert refusal(client.predict, inputs)[0] == "INVALID_ARGUMENT"


def test_a_variant_is_refused_by_name(served, refusal):
    def boxed(x):
        box = tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=tf.constant(-1))
        return {"y": box, "z": x}

    _, client = served({"serving_default": boxed})
    code, message = refusal(client.predict, {"x": np.zeros(2, np.float32)}, outputs=("y",))
    assert code == "INVALID_ARGUMENT"
    assert "variant" in message


@pytest.mark.parametrize(
    "make",
    [tf.identity, lambda x: tf.cast(x, tf.int64), lambda x: tf.as_string(x)],
    ids=["floats", "integers", "strings"],
)
def test_outputs_beyond_the_limit_are_refused_before_they_are_encoded(served, refusal, make):
    signatures = {"serving_default": lambda x: {"y": make(tf.fill([tf.cast(x, tf.int64)], 7.25))}}
    _, client = served(signatures, max_response_bytes=100_000)
    assert client.predict({"x": np.float32(1000)})
    code, message = refusal(client.predict, {"x": np.float32(10**6)})
    assert code == "RESOURCE_EXHAUSTED"
    assert "more than the 100000 of a response" in message


def test_by_default_a_response_is_as_large_as_grpc_clients_take(served, refusal):
    signatures = {"serving_default": lambda x: {"y": tf.fill([tf.cast(x, tf.int64)], 1.0)}}
    server, client = served(signatures)
    assert len(client.predict({"x": np.float32(10**6)}).outputs["y"].float_val) == 10**6
    assert refusal(client.predict, {"x": np.float32(1_100_000)})[0] == "RESOURCE_EXHAUSTED"
    wait_for(lambda: server.metrics.registry.get_sample_value("limaml_serve_pending") == 0)
