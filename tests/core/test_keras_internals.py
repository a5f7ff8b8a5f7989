"""What this package uses of Keras without a promise: each use gives what it is used for, and a
version without it is named.
"""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import keras_internals as internals
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.internals import internal

L = keras.layers


@pytest.fixture
def model():
    """A functional model with two inputs, dropout and a layer that is called twice."""
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    dense = keras.layers.Dense(3, activation="tanh")
    hidden = keras.layers.Dropout(0.5, seed=1)(dense(a) + b)
    return keras.Model([a, b], keras.layers.Dense(1)(dense(hidden)))


@pytest.fixture
def inputs():
    draw = np.random.default_rng(0)
    return [tf.constant(draw.normal(size=(4, 3)), tf.float32) for _ in range(2)]


def test_a_model_of_inputs_and_outputs_is_functional_and_a_subclass_is_not(model):
    class Other(keras.Model):
        pass

    assert type(model) is internals.Functional
    assert type(Other()) is not internals.Functional
    assert type(keras.Sequential()) is not internals.Functional


def test_layers_say_whether_they_take_training_and_other_operations_do_not():
    assert internals.takes_training(keras.layers.Dropout(0.5))
    assert not internals.takes_training(keras.layers.Embedding(2, 1))
    assert not internals.takes_training(keras.Operation())


def test_seeds_are_told_from_other_state():
    norm, drop = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    norm.build((None, 2))
    drop.build((None, 2))
    assert [internals.is_seed(v) for v in drop.variables] == [True]
    assert not any(internals.is_seed(v) for v in norm.variables)


def test_layers_are_seen_at_any_depth():
    inner = keras.layers.Dense(1)
    outer = keras.Sequential([keras.Sequential([inner])])
    assert inner in internals.layers_within(outer)
    rows = keras.Input((3,))
    inner = keras.Model(rows, keras.ops.flip(rows, 1))
    names = [part.name for part in internals.operations_within(keras.Sequential([inner]))]
    assert sum(name.startswith("flip") for name in names) == 1


def test_a_compiled_model_has_a_loss_tracker_and_parts_that_can_be_built(model):
    model.compile(loss="mse", metrics=["mae"])
    internals.build_compiled(model, tf.zeros([1, 1]), tf.zeros([1, 1]))
    internals.build_compiled(model, tf.zeros([1, 1]), tf.zeros([1, 1]))
    internals.loss_tracker(model).update_state(3.0)
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics"]
    assert float(model.metrics[0].result()) == 3.0
    assert "mae" in model.get_metrics_result()


def test_walking_the_graph_with_its_own_operations_is_calling_the_model(model, inputs):
    seen = []

    def operation_fn(operation):
        seen.append(type(operation).__name__)
        return operation

    outputs = internals.run_graph(model, inputs, operation_fn)
    np.testing.assert_allclose(outputs, model(inputs), rtol=1e-6)
    assert seen.count("Dense") == 3


@pytest.mark.parametrize("training", [False, True])
def test_making_the_calls_in_their_order_is_calling_the_model(model, inputs, training):
    known = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}
    for call in internals.calls_of(model):
        assert all(id(tensor) in known for tensor in call.inputs)
        known.update(call.run(known, training))
    same = np.allclose(known[id(model.outputs[0])], model(inputs), rtol=1e-6)
    assert same == (not training), "dropout drops in training alone"


def _sigmoid(x):
    return L.Dense(1, "sigmoid")(x)


def _nested(x):
    return keras.Sequential([keras.Sequential([L.Dense(1, "sigmoid")]), L.Flatten()])(x)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (_sigmoid, True),
        (lambda x: L.Activation("sigmoid")(x[:, :1]), True),
        (lambda x: L.Flatten()(_sigmoid(x)), True),
        (lambda x: L.Activation("linear")(L.Reshape(())(_sigmoid(x))), True),
        (lambda x: keras.ops.cast(keras.ops.reshape(_sigmoid(x), (-1,)), "float64"), True),
        (lambda x: keras.ops.squeeze(_sigmoid(x), -1), True),
        (_nested, True),
        (lambda x: L.Dense(1, tf.nn.sigmoid)(x), True),
        (lambda x: L.Dense(1)(_sigmoid(x)), False),
        (lambda x: keras.Sequential([L.Dense(1, "sigmoid"), L.Dense(1)])(x), False),
        (lambda x: L.Activation("tanh")(_sigmoid(x)), False),
        (lambda x: L.Flatten()(x), False),
    ],
)
def test_a_sigmoid_at_the_end_is_seen_behind_what_changes_no_value(outputs, expected):
    rows = keras.Input((3,))
    assert internals.ends_in_sigmoid(keras.Model(rows, outputs(rows))) == expected


@pytest.mark.parametrize(
    ("owner", "use", "missing"),
    [
        ("layer", internals.layers_within, "_flatten_layers"),
        ("model", internals.loss_tracker, "_loss_tracker"),
        ("model", lambda model: internals.build_compiled(model, 0, 0), "_compile_loss"),
        ("model", lambda model: internals.run_graph(model, [], id), "_run_through_graph"),
        ("model", internals.calls_of, "_nodes_by_depth"),
        ("optimizer", internals.take_gradients_as_summed, "_all_reduce_sum_gradients"),
        ("node", lambda node: internals.Call([], [], node).run({}, False), "operation"),
    ],
)
def test_what_a_version_lacks_is_named_with_the_version(owner, use, missing):
    bare = types.SimpleNamespace(__name__=owner)
    with pytest.raises(
        LimamlError, match=rf"^keras {keras.__version__} has no {owner}\.{missing}; .*constraints"
    ):
        use(bare)


def test_a_layer_without_word_of_training_is_refused_rather_than_run_without(monkeypatch):
    monkeypatch.setattr(
        internals, "internal", lambda library, owner, name: internal(library, owner, name + "_x")
    )
    with pytest.raises(LimamlError, match=r"has no Dense\._call_has_training_arg_x"):
        internals.takes_training(keras.layers.Dense(1))
