"""What every block must keep, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from processors import multiplies_bfloat16
from small_models import flatten_tasks

from tfrec_limaml import EntireNetworkMAML


def _task(samples, task):
    return tf.nest.map_structure(lambda value: value[task : task + 1], samples)


def _check_tasks(model, make_samples):
    """Together == one task at a time; without steps == the plain network; no support == the plain
    network.
    """
    support, query = make_samples([3, 1, 0, 2]), make_samples([2, 2, 2, 2], seed=1)
    together = model.adapted_outputs(model.adapt_tasks(support, 2), query["features"])
    for task in range(4):
        alone = model.adapted_outputs(
            model.adapt_tasks(_task(support, task), 2), _task(query, task)["features"]
        )
        np.testing.assert_allclose(together[task], alone[0], rtol=1e-10, err_msg=f"task {task}")
    plain = tf.reshape(model.network(flatten_tasks(query["features"])), [4, 2])
    unadapted = model.adapted_outputs(model.adapt_tasks(support, None), query["features"])
    np.testing.assert_allclose(unadapted, plain, rtol=1e-10)
    np.testing.assert_allclose(together[2], plain[2], rtol=1e-10)
    assert np.abs(together[0] - plain[0]).min() > 1e-6


def test_a_meta_block_keeps_tasks_apart_and_unadapted_equals_plain(
    meta_name, make_model, make_samples
):
    _check_tasks(make_model(meta_name), make_samples)


def test_a_global_block_keeps_tasks_apart_and_unadapted_equals_plain(
    global_name, make_model, make_samples
):
    _check_tasks(make_model("mlp", global_name), make_samples)


def test_a_global_block_is_its_head_on_its_context(global_name, make_model, make_samples):
    block = make_model("mlp", global_name).global_block
    features = flatten_tasks(make_samples([3, 2])["features"])
    embedding = tf.random.stateless_normal([6, 4], [1, 2], dtype=tf.float64)
    np.testing.assert_allclose(
        block(features, embedding),
        block.head(block.encode_context(features), embedding),
        rtol=1e-12,
    )
    moved = block.head(block.encode_context(features), embedding + 1)
    assert np.abs(moved - block(features, embedding)).min() > 1e-9, (
        "every logit must see the meta embedding"
    )


def _check_training(model, make_samples):
    before = {v.path: v.numpy() for v in model.trainable_variables}
    model.train_step(
        {"support": make_samples([3, 2, 3, 1]), "query": make_samples([2, 2, 1, 2], seed=1)}
    )
    for variable in model.trainable_variables:
        assert np.isfinite(variable.numpy()).all(), variable.path
        assert np.abs(variable.numpy() - before[variable.path]).max() > 0, (
            f"{variable.path} has no gradient"
        )


def test_a_training_step_moves_every_variable_of_a_meta_block(meta_name, make_model, make_samples):
    _check_training(make_model(meta_name, inner_steps=2), make_samples)


def test_a_training_step_moves_every_variable_of_a_global_block(
    global_name, make_model, make_samples
):
    _check_training(make_model("mlp", global_name, unadapted_loss_weight=0.5), make_samples)


def test_the_outer_gradient_matches_finite_differences(meta_name, make_model, make_samples):
    model = make_model(meta_name, inner_steps=2, unadapted_loss_weight=0.5)
    support, query = make_samples([3, 2, 1]), make_samples([2, 2, 2], seed=1)
    variables = model.trainable_variables
    rng = np.random.default_rng(5)
    start, direction = [v.numpy() for v in variables], [rng.normal(size=v.shape) for v in variables]

    def loss():
        outer = model.outer_loss(support, query)
        return tf.reduce_sum((outer.losses + outer.auxiliary) * outer.weights)

    def slope():
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [v.value for v in variables])
        return tf.add_n(
            [
                tf.reduce_sum(tf.convert_to_tensor(g) * d)
                for g, d in zip(gradients, direction, strict=True)
            ]
        )

    # Attention takes its softmax in float32, so that its differences need a longer step and are
    # less exact.
    step, tolerance = (1e-4, 1e-2) if meta_name in ("transformer", "nested") else (1e-6, 1e-6)
    actual, ends = float(slope()), []
    for sign in (1, -1):
        for variable, value, way in zip(variables, start, direction, strict=True):
            variable.assign(value + sign * step * way)
        ends.append(float(loss()))
    np.testing.assert_allclose(actual, (ends[0] - ends[1]) / (2 * step), rtol=tolerance)


@multiplies_bfloat16
def test_blocks_train_in_mixed_precision(meta_name, make_model, make_samples):
    model = make_model(meta_name, dtype="mixed_bfloat16")
    model.train_step(
        {
            "support": make_samples([3, 1], "float32"),
            "query": make_samples([2, 2], "float32", seed=1),
        }
    )
    assert all(
        v.dtype == "float32" and np.isfinite(v.numpy()).all() for v in model.trainable_variables
    )
    rows = flatten_tasks(make_samples([3], "float32")["features"])
    assert model.meta_block(rows).dtype == tf.bfloat16


@multiplies_bfloat16
def test_global_blocks_train_in_mixed_precision(global_name, make_model, make_samples):
    model = make_model("mlp", global_name, dtype="mixed_bfloat16")
    model.train_step(
        {
            "support": make_samples([3, 1], "float32"),
            "query": make_samples([2, 2], "float32", seed=1),
        }
    )
    assert all(
        v.dtype == "float32" and np.isfinite(v.numpy()).all() for v in model.trainable_variables
    )


@pytest.mark.parametrize(
    ("meta", "head"), [("transformer", "dlrm"), ("features+id", "dcn"), ("keras", "functional")]
)
def test_the_whole_network_can_be_adapted_too(meta, head, make_model, make_samples, shapes):
    limaml = make_model(meta, head)
    model = EntireNetworkMAML(
        limaml.meta_block, limaml.global_block, inner_learning_rate=0.5, dtype="float64"
    )
    model.compile("sgd")
    model.build(shapes)
    support, query = make_samples([3, 1, 0]), make_samples([2, 2, 2], seed=1)
    together = model.adapted_outputs(model.adapt_tasks(support, 1), query["features"])
    plain = tf.reshape(model.network(flatten_tasks(query["features"])), [3, 2])
    np.testing.assert_allclose(together[2], plain[2], rtol=1e-6)
    assert np.abs(together[0] - plain[0]).min() > 1e-6


@pytest.mark.parametrize("name", ["id", "features+id"])
def test_an_id_that_training_never_saw_starts_at_the_prior_and_gets_a_row_of_its_own(
    name, make_model, make_samples
):
    model = make_model(name)
    support = make_samples([3, 2, 2])
    support["features"]["user"] *= 0
    support["features"]["meta"] = tf.ones_like(support["features"]["meta"])
    start = model.meta_block(flatten_tasks(support["features"]))
    np.testing.assert_allclose(start, np.broadcast_to(start[:1], start.shape), rtol=1e-12)
    stored = model.task_embeddings(support)[0]
    assert np.abs(stored[0] - stored[1]).max() > 1e-6
