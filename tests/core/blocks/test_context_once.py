"""Rows that share features: the shared ones are computed once, with the same result."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.blocks import BilinearGlobalBlock, DotProductGlobalBlock, MLPGlobalBlock
from tfrec_limaml.blocks.optional_methods import scores_once

ROWS, META, OTHER, DIM = 5, 3, 4, 6
EMBEDDINGS = {"member": (7, 2), "item": (9, 3), "tags": (4, 2)}
BLOCKS = {
    "mlp": lambda: MLPGlobalBlock((8, 5), "tanh", embeddings=EMBEDDINGS),
    "one layer": lambda: MLPGlobalBlock((8,), "tanh"),
    "dot product": lambda: DotProductGlobalBlock((8, 5), embeddings=EMBEDDINGS, dropout=0.5),
    "scaled ids": lambda: DotProductGlobalBlock(
        (8,), embeddings=EMBEDDINGS, embeddings_scales={"member": np.linspace(0.1, 1, 7)}
    ),
    "bilinear": lambda: BilinearGlobalBlock((8,), embeddings=EMBEDDINGS),
}


def _features(rng, shared):
    return {
        "meta": tf.constant(rng.normal(size=(shared, META)), tf.float32),
        "other": tf.constant(rng.normal(size=(ROWS, OTHER)), tf.float32),
        "member": tf.constant(rng.integers(7, size=shared), tf.int32),
        "item": tf.constant(rng.integers(9, size=ROWS), tf.int32),
        "tags": tf.constant(rng.integers(2, size=(ROWS, 4)), tf.float32),
    }


@pytest.mark.parametrize("shared", [1, ROWS])
@pytest.mark.parametrize("kind", BLOCKS)
def test_shared_features_are_computed_once_with_the_same_logits(kind, shared):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    block = BLOCKS[kind]()
    features = _features(rng, shared)
    block.build({n: (None, *v.shape[1:]) for n, v in features.items()}, (None, DIM))
    for number, variable in enumerate(block.trainable_variables):  # nothing may be zero
        variable.assign(variable + keras.random.normal(variable.shape, seed=number))
    embedding = tf.constant(rng.normal(size=(shared, DIM)), tf.float32)
    assert scores_once(block)
    once = block.encode_context_once(features, ["meta", "member"])
    whole = {
        n: tf.repeat(v, ROWS, 0) if len(v) == 1 else v
        for n, v in {**features, "e": embedding}.items()
    }
    expected = block(whole, whole.pop("e"))
    np.testing.assert_allclose(block.head(once, embedding), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.1
    one, other = tf.split(embedding, 2, -1)  # one of a single row, the other of all rows
    parts = [one[:1], tf.repeat(other, ROWS // shared, 0)]
    both = tf.concat([tf.repeat(parts[0], ROWS, 0), parts[1]], -1)
    logits = block.head_of_parts(once, parts, ROWS)
    np.testing.assert_allclose(logits, block.head(once, both), rtol=1e-5, atol=1e-5)


def test_a_block_with_another_head_is_not_taken_to_broadcast():
    class Other(MLPGlobalBlock):
        def head(self, context, meta_embedding, training=False):
            return super().head(tf.concat([context, meta_embedding], -1), meta_embedding)

    assert not scores_once(Other((4,)))
