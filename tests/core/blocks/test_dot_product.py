"""What the scales of a `DotProductGlobalBlock` reach."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.blocks import DotProductGlobalBlock

SHAPES = {"meta": (None, 1), "other": (None, 1), "item": (None,)}
ITEMS = {"item": (3, 2)}
ROWS = {
    "meta": tf.zeros([3, 1]),
    "other": tf.zeros([3, 1]),
    "item": tf.range(3),
}


def block_of(**scales):
    keras.utils.set_random_seed(1)
    block = DotProductGlobalBlock((4,), embeddings=ITEMS, **scales)
    block.build(SHAPES, (None, 5))
    return block


def read(block):
    """The network's logits ``[3]`` of the three items, and their rows in the projection."""
    logits, projection, hidden = block.encode_context(ROWS)
    rows = projection[:, :-1] - block.projection_layer(hidden)
    return logits.numpy(), rows.numpy()


def test_projected_scales_multiply_an_id_s_row_in_the_projection_alone():
    logits, rows = read(block_of())
    scaled_logits, scaled_rows = read(block_of(projected_scales={"item": [0.0, 0.5, 1.0]}))
    np.testing.assert_array_equal(scaled_logits, logits)
    np.testing.assert_allclose(scaled_rows, rows * [[0.0], [0.5], [1.0]], atol=1e-7)
    assert np.abs(rows).min() > 1e-4


@pytest.mark.parametrize("projected", [None, {"item": [1.0, 1.0, 0.25]}])
def test_by_default_the_scales_of_the_network_hold_for_the_projection(projected):
    scales = {"embeddings_scales": {"item": [0.0, 1.0, 0.5]}, "projected_scales": projected}
    block = block_of(**scales)
    assert block.projected_scales == (projected or scales["embeddings_scales"])
    again = DotProductGlobalBlock.from_config(block.get_config())
    again.build(SHAPES, (None, 5))
    again.set_weights(block.get_weights())
    for one, other in zip(read(block), read(again), strict=True):
        np.testing.assert_array_equal(one, other)
