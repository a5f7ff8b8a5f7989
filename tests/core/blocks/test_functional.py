"""A user's own functional model as global block."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml.adaptation.mixing import varied
from tfrec_limaml.blocks import FunctionalGlobalBlock, functional
from tfrec_limaml.errors import LimamlError

L = keras.layers


def _inputs(*names):
    shapes = {"meta": (3,), "other": (2,), "meta_embedding": (4,)}
    return [keras.Input(shapes[name], name=name) for name in names]


def test_the_logits_are_the_model_s(make_model, make_samples):
    block = make_model("mlp", "functional", "float32").global_block
    rows = flatten_tasks(make_samples([3, 2], "float32")["features"])
    embedding = tf.random.stateless_normal([6, 4], [3, 4])
    expected = block.model(
        {**{n: rows[n] for n in block.feature_names}, "meta_embedding": embedding}
    )
    np.testing.assert_allclose(block(rows, embedding), expected[:, 0], rtol=1e-5, atol=1e-6)


def test_the_context_holds_all_that_the_meta_embedding_does_not_touch(make_model, make_samples):
    block = make_model("mlp", "functional", "float32").global_block
    rows = flatten_tasks(make_samples([3, 2], "float32")["features"])
    context = block.encode_context(rows)
    assert sorted(tensor.shape[1] for tensor in context) == [3, 5], (
        "the item's embedding, and the hidden layer on dense features"
    )


def test_a_model_of_the_meta_embedding_alone_has_an_empty_context(shapes, make_samples):
    (embedding_input,) = _inputs("meta_embedding")
    block = FunctionalGlobalBlock(keras.Model(embedding_input, L.Dense(1)(embedding_input)))
    block.build(shapes, (None, 4))
    assert block.encode_context(make_samples([2])["features"]) == []
    assert block.head([], tf.ones((5, 4))).shape == (5,)


def test_features_that_enter_beside_the_meta_embedding_pass_through(shapes, make_samples):
    other, embedding_input = _inputs("other", "meta_embedding")
    block = FunctionalGlobalBlock(
        keras.Model(
            {"other": other, "meta_embedding": embedding_input},
            L.Dense(1)(L.Concatenate()([other, embedding_input])),
        )
    )
    block.build(shapes, (None, 4))
    rows = flatten_tasks(make_samples([3], "float32")["features"])
    np.testing.assert_array_equal(block.encode_context(rows)[0], rows["other"])
    kernel, bias = block.model.layers[-1].get_weights()
    inputs = np.concatenate([rows["other"], np.ones((3, 4))], -1)
    np.testing.assert_allclose(
        block(rows, tf.ones((3, 4))), (inputs @ kernel + bias)[:, 0], rtol=1e-5
    )


def test_a_model_without_the_meta_embedding_is_refused():
    (other,) = _inputs("other")
    with pytest.raises(
        LimamlError,
        match=r"model needs one input named 'meta_embedding', received inputs \['other'\]",
    ):
        FunctionalGlobalBlock(keras.Model(other, L.Dense(1)(other)))
    other, embedding_input = _inputs("other", "meta_embedding")
    with pytest.raises(LimamlError, match="output does not depend on its input 'meta_embedding'"):
        FunctionalGlobalBlock(keras.Model([other, embedding_input], L.Dense(1)(other)))


def test_models_of_another_form_are_refused():
    (embedding_input,) = _inputs("meta_embedding")
    with pytest.raises(
        LimamlError,
        match=r"one output of shape \[N, 1\] or \[N\], a logit, received \[\(None, 2\)\]",
    ):
        FunctionalGlobalBlock(keras.Model(embedding_input, L.Dense(2)(embedding_input)))
    with pytest.raises(LimamlError, match="must be a functional Keras model"):
        FunctionalGlobalBlock(L.Dense(1))


def test_inputs_that_do_not_fit_the_features_are_named(shapes):
    other, embedding_input = _inputs("other", "meta_embedding")
    block = FunctionalGlobalBlock(
        keras.Model([other, embedding_input], L.Dense(1)(L.Concatenate()([other, embedding_input])))
    )
    with pytest.raises(
        LimamlError, match=r"input 'other' is not an encoded feature; there are .*encoder\.slices"
    ):
        block.build({"meta": (None, 3)}, (None, 4))
    with pytest.raises(
        LimamlError,
        match=r"input 'meta_embedding' has shape \(None, 4\), the feature has \(None, 7\)",
    ):
        block.build(shapes, (None, 7))


def test_dropout_on_either_side_of_the_cut_drops_in_training_alone(shapes):
    other, embedding_input = _inputs("other", "meta_embedding")
    early, late = L.Dropout(0.5, seed=1)(other), L.Dropout(0.5, seed=2)(embedding_input)
    total = L.Dense(1, use_bias=False, kernel_initializer="ones")(L.Concatenate()([early, late]))
    block = FunctionalGlobalBlock(keras.Model([other, embedding_input], total))
    rows = {"other": tf.ones((50, 2))}
    np.testing.assert_array_equal(block(rows, tf.zeros((50, 4))), np.full(50, 2.0))
    assert set(np.unique(block(rows, tf.zeros((50, 4)), training=True))) == {0.0, 2.0, 4.0}
    assert (
        len(np.unique(block.head(block.encode_context(rows), tf.ones((50, 4)), training=True))) > 1
    )


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("operation", [keras.ops.cumsum, keras.ops.softmax])
def test_a_model_that_works_along_the_rows_is_refused(shapes, operation, late):
    other, embedding_input = _inputs("other", "meta_embedding")
    if late:
        hidden = operation(L.Concatenate()([other, embedding_input]), axis=0)
    else:
        hidden = L.Concatenate()([operation(other, axis=0), embedding_input])
    logit = L.Dense(1, kernel_initializer="zeros")(hidden)
    block = FunctionalGlobalBlock(keras.Model([other, embedding_input], logit))
    with pytest.raises(LimamlError, match=rf"mixes rows: .*'{operation.__name__}.* first$"):
        block.build(shapes, (None, 4))


def test_tensorflow_does_not_warn_of_many_blocks_in_one_process(shapes, caplog):
    caplog.set_level(logging.WARNING, "tensorflow")
    for _ in range(8):
        other, embedding_input = _inputs("other", "meta_embedding")
        rows = keras.ops.reshape(L.Concatenate()([other, embedding_input]), (-1, 6))
        block = FunctionalGlobalBlock(keras.Model([other, embedding_input], L.Dense(1)(rows)))
        block.build(shapes, (None, 4))
    assert "retracing" not in caplog.text


def test_a_model_that_works_along_other_axes_is_no_mixing(shapes):
    other, embedding_input = _inputs("other", "meta_embedding")
    hidden = keras.ops.cumsum(L.Concatenate()([other, embedding_input]), axis=1)
    norm = L.BatchNormalization()(keras.ops.relu(hidden))
    block = FunctionalGlobalBlock(keras.Model([other, embedding_input], L.Dense(1)(norm)))
    block.build(shapes, (None, 4))
    assert block.built


def _with_items(operation, number=50, initializer="uniform", merge=None):
    """A block in which `operation` follows the embedding of an item's ID."""
    item, embedding_input = keras.Input((), name="item", dtype="int32"), *_inputs("meta_embedding")
    embedded = operation(L.Embedding(number, 4, initializer)(item))
    hidden = (merge or L.Concatenate(name="joined"))([embedded, embedding_input])
    return FunctionalGlobalBlock(keras.Model([item, embedding_input], L.Dense(1)(hidden)))


def _build_with_items(block):
    block.build({"item": (None,)}, (None, 4))
    assert block.built


_ALONG_ROWS = {
    "centre": lambda x: x - keras.ops.mean(x, axis=0, keepdims=True),
    "softmax": lambda x: keras.ops.softmax(x, axis=0),
    "sort": lambda x: keras.ops.sort(x, axis=0),
    "flip": lambda x: keras.ops.flip(x, axis=0),
}


@pytest.mark.parametrize("initializer", ["uniform", "zeros"])
@pytest.mark.parametrize("name", list(_ALONG_ROWS))
def test_embeddings_of_items_that_are_mixed_are_refused(name, initializer):
    block = _with_items(_ALONG_ROWS[name], initializer=initializer)
    with pytest.raises(LimamlError, match="mixes rows"):
        _build_with_items(block)


@pytest.mark.parametrize("number", [1, 2])
def test_the_check_uses_ids_that_a_small_embedding_has(number):
    _build_with_items(_with_items(keras.ops.relu, number))
    with pytest.raises(LimamlError, match="mixes rows"):
        _build_with_items(_with_items(_ALONG_ROWS["flip"], 2))


@pytest.mark.parametrize("offset", [0, 9])
def test_ids_out_of_range_of_an_inner_embedding_do_not_end_the_check(offset):
    item, embedding_input = keras.Input((), name="item", dtype="int32"), *_inputs("meta_embedding")
    embedded = L.Embedding(2, 4)(keras.ops.abs(item + offset))
    logit = L.Dense(1)(L.Add()([embedded, embedding_input]))
    _build_with_items(FunctionalGlobalBlock(keras.Model([item, embedding_input], logit)))


class _CentresWithWeights(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return self.scale * (inputs - keras.ops.mean(inputs, axis=0, keepdims=True))


@pytest.mark.parametrize(
    "part",
    [_CentresWithWeights(name="own"), L.Dense(4, activation=keras.ops.flip, name="own")],
    ids=["own weights", "function of keras.ops as activation"],
)
def test_a_layer_with_weights_that_works_along_the_rows_is_refused(shapes, part):
    other, embedding_input = _inputs("other", "meta_embedding")
    hidden = L.Add()([part(L.Dense(4)(other)), embedding_input])
    block = FunctionalGlobalBlock(keras.Model([other, embedding_input], L.Dense(1)(hidden)))
    with pytest.raises(LimamlError, match=r"mixes rows: .* parts \('own'\) reads"):
        block.build(shapes, (None, 4))


@pytest.mark.parametrize(
    "merge",
    [
        L.Concatenate(axis=1),
        L.Concatenate(axis=-1),
        lambda tensors: L.Flatten()(keras.ops.stack(tensors, 1)),
        lambda tensors: keras.Sequential([L.Softmax()])(keras.ops.concatenate(tensors, -1)),
    ],
)
def test_parts_that_work_along_another_axis_are_not_named(merge):
    block = _with_items(lambda x: keras.ops.softmax(x, axis=0), merge=merge)
    with pytest.raises(LimamlError, match=r"One of its parts \('softmax[_0-9]*'\) reads"):
        _build_with_items(block)


def test_an_axis_that_is_the_first_of_a_vector_is_not_overlooked():
    shares, embedding_input = keras.Input((), name="share"), *_inputs("meta_embedding")
    share = L.Reshape((1,))(L.Softmax(axis=-1, name="over_rows")(shares))
    logit = L.Dense(1)(L.Concatenate()([share, embedding_input]))
    block = FunctionalGlobalBlock(keras.Model([shares, embedding_input], logit))
    with pytest.raises(LimamlError, match=r"mixes rows: .* parts \('over_rows'\) reads"):
        block.build({"share": (None,)}, (None, 4))


def test_a_model_without_parts_that_may_mix_rows_is_not_checked(monkeypatch):
    monkeypatch.setattr(functional, "varied", None)  # a call would fail
    _build_with_items(_with_items(L.Dense(4, "relu")))


def test_only_the_first_rows_of_a_large_table_get_noise():
    table = L.Embedding(5000, 2)
    table.build()
    before = table.get_weights()[0]
    for entries in (None, 3):
        (after,) = varied(table, entries)
        assert after.dtype == "float32"
        for values in after if entries else [after]:
            changed = np.any(values.numpy() != before, axis=1)
            assert changed[:1000].all()
            assert not changed[1000:].any()
