"""A user's own functional model as global block."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml.blocks import FunctionalGlobalBlock
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
    with pytest.raises(LimamlError, match="input 'other' is not an encoded feature; there are"):
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


def test_a_model_that_works_along_other_axes_is_no_mixing(shapes):
    other, embedding_input = _inputs("other", "meta_embedding")
    hidden = keras.ops.cumsum(L.Concatenate()([other, embedding_input]), axis=1)
    norm = L.BatchNormalization()(keras.ops.relu(hidden))
    block = FunctionalGlobalBlock(keras.Model([other, embedding_input], L.Dense(1)(norm)))
    block.build(shapes, (None, 4))
    assert block.built
