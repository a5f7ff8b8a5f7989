"""Dot products, against NumPy and against one interaction of all vectors at once."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml.blocks import DLRMGlobalBlock
from tfrec_limaml.blocks.tfrs import feature_interaction


def test_context_and_head_together_hold_the_dots_of_all_vectors(make_model, make_samples):
    block = make_model("mlp", "dlrm").global_block
    rows = flatten_tasks(make_samples([3, 2])["features"])
    embedding = np.random.default_rng(0).normal(size=(6, 4))
    _, vectors = block.encode_context(rows)
    projected = embedding @ block.project.get_weights()[0]
    with_zeros = feature_interaction().DotInteraction(dtype="float64")(
        [*tf.unstack(vectors, axis=1), tf.constant(projected)]
    )
    count = len(block._pairs)
    kernel, bias = block.context_layer.get_weights()
    inputs = np.concatenate(
        [vectors[:, 0], with_zeros[:, :count], embedding, with_zeros[:, count:]], -1
    )
    hidden = np.tanh(
        inputs @ np.concatenate([kernel, block.embedding_layer.get_weights()[0]]) + bias
    )
    np.testing.assert_allclose(block(rows, embedding), block.network(hidden)[:, 0], rtol=1e-10)


def test_the_vectors_are_the_dense_one_and_one_per_id(make_model, make_samples):
    block = make_model("mlp", "dlrm").global_block
    rows = flatten_tasks(make_samples([3])["features"])
    _, vectors = block.encode_context(rows)
    kernel, bias = block.bottom.get_weights()
    np.testing.assert_allclose(
        vectors[:, 0],
        np.tanh(np.concatenate([rows["meta"], rows["other"]], -1) @ kernel + bias),
        rtol=1e-10,
    )
    for place, name in enumerate(("user", "item"), 1):
        np.testing.assert_array_equal(
            vectors[:, place], block.tables.tables[name].numpy()[rows[name]]
        )


def test_without_ids_the_only_dot_is_the_meta_embedding_s(shapes, make_samples):
    block = DLRMGlobalBlock((3,), interaction_dim=2, dtype="float64")
    block.build(shapes, (None, 4))
    rows = flatten_tasks(make_samples([2])["features"])
    assert block(rows, np.ones((2, 4))).shape == (2,)
    assert block.embedding_layer.kernel.shape == (5, 3)


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="interaction_dim must be at least 1, received 0"):
        DLRMGlobalBlock((3,), interaction_dim=0)
