"""A user's own layers as meta block."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfrec_limaml.blocks import KerasMetaBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import flatten_tasks

L = keras.layers


def test_unadapted_embeddings_are_the_layer_s_output(make_model, make_samples):
    block = make_model("keras").meta_block
    rows = flatten_tasks(make_samples([3, 2])["features"])
    np.testing.assert_allclose(block(rows), block.layer(rows["meta"]), rtol=1e-10)


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
        (lambda: keras.Sequential([L.Dense(4), L.BatchNormalization(name="bn")]), r"layer 'bn' \(BatchNormalization\) cannot be batched"),
        (lambda: L.Dense(7, name="wide"), r"layer 'wide' must give \[N, 4\] \(embedding_dim\) of \[N, 3\], gives \(None, 7\)"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_when_the_block_is_built(layer, message, shapes):
    with pytest.raises(LimamlError, match=message):
        KerasMetaBlock(layer(), 4).build(shapes)


def test_what_is_no_layer_is_refused():
    with pytest.raises(ValueError, match="layer must be a Keras layer or model, received 'relu'"):
        KerasMetaBlock("relu", 4)
