"""A user's own layers as meta block."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml.adaptation.inner_weights import DualKernel, SharedWeight
from tfrec_limaml.blocks import KerasMetaBlock, MetaBlock, mlp
from tfrec_limaml.errors import LimamlError

L = keras.layers


class _AddsLoss(L.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs))
        return inputs


class _Noise(L.Layer):
    """Draws in inference too, which is no mixing of tasks."""

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def _centred(x):
    return x - tf.reduce_mean(x, 0)


def _functional(operation):
    rows = keras.Input((3,))
    return keras.Model(rows, operation(L.Dense(4)(rows)))


class _RunningSum(L.Layer):
    """The first task sees nothing of the others, and the last one sees all."""

    def call(self, inputs):
        return tf.cumsum(inputs, 0)


class _BuiltByACall(L.Layer):
    """Has neither `build` nor `compute_output_shape`."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.parts = [L.Dense(5, "tanh"), L.Dense(width)]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


def test_unadapted_embeddings_are_the_layer_s_output(make_model, make_samples):
    block = make_model("keras").meta_block
    rows = flatten_tasks(make_samples([3, 2])["features"])
    np.testing.assert_allclose(block(rows), block.layer(rows["meta"]), rtol=1e-10)


def test_a_layer_whose_parts_are_built_by_its_first_call_is_adapted_like_any_other(shapes):
    layer = _BuiltByACall()
    block = KerasMetaBlock(layer, 4)
    block.build(shapes)
    assert [tuple(v.shape) for v in block.adaptable_variables] == [(3, 5), (5,), (5, 4), (4,)]
    rows = tf.random.stateless_normal([2, 6, 3], [1, 2])
    adapted = block.call_adapted(block.initial_weights(rows), rows)
    np.testing.assert_allclose(adapted[1], layer(rows[1]), rtol=1e-5, atol=1e-6)


def test_a_frozen_part_is_shared_and_stays_as_it_is(shapes):
    block = KerasMetaBlock(keras.Sequential([L.Dense(5, trainable=False), L.Dense(4)]), 4)
    block.build(shapes)
    assert [tuple(v.shape) for v in block.adaptable_variables] == [(5, 4), (4,)]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: keras.Sequential([L.Reshape((3, 1)), L.Conv1D(4, 3, name="taps"), L.Flatten()]),
            r"layer 'taps' \(Conv1D\) cannot be batched",
        ),
        (
            lambda: keras.Sequential([L.Dense(4), L.BatchNormalization(name="bn")]),
            r"layer 'bn' \(BatchNormalization\) cannot be batched",
        ),
        (
            lambda: keras.Sequential([L.Dense(5), L.Dense(4, activity_regularizer="l2", name="r")]),
            r"layer 'r' adds a loss .*kernel_regularizer",
        ),
        (
            lambda: keras.Sequential([L.Dense(4), _AddsLoss()], name="all"),
            r"layer 'all' adds a loss .*add_loss",
        ),
        (
            lambda: _BuiltByACall(7, name="late"),
            r"layer 'late' must map \[N, 3\] to \[N, 4\] .* output \(None, 7\)",
        ),
        (
            lambda: keras.Sequential([L.Dense(4), L.Lambda(_centred, name="centre")], name="all"),
            r"layer 'all' mixes tasks: .*\('centre'\).* work along other axes than the first",
        ),
        (
            lambda: keras.Sequential([L.Dense(4), L.UnitNormalization(axis=0)]),
            r"mixes tasks: .*\('unit_normalization",
        ),
        (
            lambda: _functional(lambda x: x - keras.ops.mean(x, 0, keepdims=True)),
            r"layer 'mean.*' \(Mean\) cannot be batched over tasks: .*\[\(1, 4\)\]; let it",
        ),
        (
            lambda: L.Dense(7, name="wide"),
            r"layer 'wide' must map \[N, 3\] to \[N, 4\] \(embedding_dim\), .* output \(None, 7\)",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_when_the_block_is_built(layer, message, shapes):
    with pytest.raises(LimamlError, match=message):
        KerasMetaBlock(layer(), 4).build(shapes)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: keras.ops.softmax(x, axis=0), "softmax"),
        (lambda x: keras.ops.cumsum(x, axis=0), "cumsum"),
        (lambda x: keras.ops.flip(x, axis=0), "flip"),
        (lambda x: keras.ops.roll(x, 1, axis=0), "roll"),
        (lambda x: keras.ops.sort(x, axis=0), "sort"),
        (_RunningSum(name="running"), "running"),
        (lambda x: _RunningSum(name="frozen", trainable=False)(x), "frozen"),
        (L.Dense(4, activation=_centred, name="centring"), "centring"),
        (L.Dense(4, activation=keras.ops.flip, name="flipping"), "flipping"),
        (lambda x: L.Dense(4, "tanh")(L.Activation(_centred, name="act")(x)), "act"),
    ],
)
def test_a_part_that_works_along_the_rows_of_all_tasks_is_refused(operation, name, shapes):
    model = _functional(lambda x: L.Dense(4, kernel_initializer="zeros")(operation(x)))
    message = rf"layer '{model.name}' mixes tasks: .*'{name}.*other axes than the first"
    with pytest.raises(LimamlError, match=message):
        KerasMetaBlock(model, 4).build(shapes)


def test_operations_that_keep_rows_apart_are_no_mixing(shapes):
    ops = keras.ops
    model = _functional(lambda x: ops.softmax(ops.cumsum(ops.flip(x[:, ::-1] + 1, 1), 1)))
    KerasMetaBlock(model, 4).build(shapes)


def test_layers_without_weights_that_keep_rows_apart_are_no_mixing(shapes):
    own = [L.Lambda(lambda x: x - tf.reduce_mean(x, -1, keepdims=True)), _Noise(name="noise")]
    KerasMetaBlock(keras.Sequential([L.Dense(4), *own, L.Softmax()]), 4).build(shapes)


def test_a_dense_layer_with_a_frozen_kernel_starts_from_copies_of_its_bias(shapes):
    dense = L.Dense(4)
    block = KerasMetaBlock(keras.Sequential([dense]), 4)
    block.build(shapes)
    dense.kernel.trainable = False
    (bias,) = block.initial_weights(tf.zeros([2, 5, 3]))
    assert bias.shape == (2, 4)


def test_what_is_no_layer_is_refused():
    with pytest.raises(ValueError, match="layer must be a Keras layer or model, received 'relu'"):
        KerasMetaBlock("relu", 4)


@pytest.mark.parametrize("wide_from", [1, 99])
def test_a_stack_of_dense_layers_learns_the_same_in_cheaper_forms(
    make_model, make_samples, meta_blocks, monkeypatch, wide_from
):
    def stack(dtype):
        layers = [keras.layers.Dense(5, "tanh", dtype=dtype), keras.layers.Dense(4, dtype=dtype)]
        return KerasMetaBlock(keras.Sequential(layers), 4, dtype=dtype)

    monkeypatch.setitem(meta_blocks, "keras", stack)
    monkeypatch.setattr(mlp, "DUAL_FROM_WIDTH", wide_from)
    support, query = make_samples([3, 5, 2], seed=1), make_samples([4, 1, 2], seed=2)

    def gradients():
        model = make_model("keras", inner_steps=2)
        encoded = tf.zeros([2, 3, 3], tf.float64)
        forms = [type(weight) for weight in model.meta_block.initial_weights(encoded)]
        return forms, model._gradients(support, query, model.outer_count(support, query))

    forms, cheap = gradients()
    assert forms == [DualKernel if wide_from == 1 else SharedWeight, *[SharedWeight] * 3]
    monkeypatch.setattr(KerasMetaBlock, "initial_weights", MetaBlock.initial_weights)
    forms, plain = gradients()
    assert not {DualKernel, SharedWeight} & set(forms)
    for one, other in zip(tf.nest.flatten(cheap), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Dropout(0.5), keras.layers.Dense(4)],
        [keras.layers.Dense(5), keras.layers.LayerNormalization(), keras.layers.Dense(4)],
        [keras.layers.Dense(4, dtype="float64")],
    ],
    ids=["not dense first", "not dense alone", "another dtype"],
)
def test_any_other_stack_starts_from_tensors(layers):
    block = KerasMetaBlock(keras.Sequential(layers), 4)
    block.build({"meta": (None, 3)})
    assert all(tf.is_tensor(weight) for weight in block.initial_weights(tf.zeros([2, 3, 3])))
