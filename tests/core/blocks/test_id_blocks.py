"""ID embeddings as meta block, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml.blocks import FeaturesAndIDMetaBlock, IDEmbeddingMetaBlock


def test_a_gradient_step_on_the_prior_s_copy_is_one_on_the_task_s_own_row(make_model, make_samples):
    model = make_model("id")
    support = make_samples([3, 1])
    block = model.meta_block
    (table,) = block.offsets.tables.values()
    row = tf.Variable(table.numpy()[[1, 2]] + block.prior.numpy())
    context = model.global_block.encode_context(flatten_tasks(support["features"]))
    with tf.GradientTape() as tape:
        rows = tf.repeat(row, 3, 0)
        loss = tf.reduce_sum(
            model.task_loss(tf.reshape(model.global_block.head(context, rows), [2, 3]), support)
        )
    expected = row - model.inner_learning_rate * tape.gradient(loss, row)
    np.testing.assert_allclose(model.task_embeddings(support)[0], expected, rtol=1e-10)


def test_the_unknown_id_is_the_prior_and_hash_buckets_have_none(make_model):
    block = make_model("id").meta_block
    (table,) = block.offsets.tables.values()
    ids = {"user": tf.constant([0, 3])}
    np.testing.assert_allclose(
        block(ids), [block.prior.numpy(), block.prior.numpy() + table.numpy()[3]]
    )
    block.offsets.unknown_id = None
    np.testing.assert_allclose(block(ids)[0], block.prior.numpy() + table.numpy()[0])


def test_before_training_every_id_is_the_prior():
    block = IDEmbeddingMetaBlock("user", 5, 3)
    block.build({"user": (None,)})
    np.testing.assert_array_equal(
        block({"user": tf.constant([1, 4])}), np.tile(block.prior.numpy(), (2, 1))
    )


def test_the_mlp_reads_the_id_s_row_beside_the_features(make_model, make_samples):
    block = make_model("features+id").meta_block
    rows = {name: value[0] for name, value in make_samples([3])["features"].items()}
    (table,) = block.offsets.tables.values()
    first, second = (layer.get_weights() for layer in block.network.layers)
    inputs = np.concatenate([block.prior.numpy() + table.numpy()[rows["user"]], rows["meta"]], -1)
    np.testing.assert_allclose(
        block(rows), np.tanh(inputs @ first[0] + first[1]) @ second[0] + second[1], rtol=1e-10
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, received 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, received 0"),
        ({"unknown_id": 9}, "unknown_id must be an id below size=5 or None, received 9"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        IDEmbeddingMetaBlock(**{"feature": "user", "size": 5, "embedding_dim": 2, **arguments})


@pytest.mark.parametrize("shapes", [{"meta": (None, 3)}, {"meta": (None, 3), "user": (None, 7)}])
def test_a_feature_that_is_no_single_id_is_refused(shapes):
    for block in (IDEmbeddingMetaBlock("user", 5, 2), FeaturesAndIDMetaBlock("user", 5, 2)):
        with pytest.raises(
            ValueError,
            match="feature 'user' must be a single-valued id with an embedding_width; received",
        ):
            block.build(shapes)
