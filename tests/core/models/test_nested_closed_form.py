"""Closed-form adaptation to nested task definitions."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from finite_differences import assert_outer_gradient

from tfrec_limaml import LiMAML
from tfrec_limaml.blocks import DotProductGlobalBlock, NestedMetaBlocks, OffsetMetaBlock
from tfrec_limaml.evaluation.adaptation import served_outputs

pytestmark = pytest.mark.slow

TAB = "subtask:tab"
TABS = [[7, 7, 8, 7, 8], [8, 8, 8, 0, 0], [7, 9, 7, 7, 0], [0, 0, 0, 0, 0]]
REAL = [5, 3, 4, 0]


def _model(**options):
    keras.utils.set_random_seed(1)
    blocks = {name: OffsetMetaBlock((5,), 3, dtype="float64") for name in ("user", "tab")}
    model = LiMAML(
        NestedMetaBlocks(blocks, dtype="float64"),
        DotProductGlobalBlock((6, 5), "gelu", dtype="float64"),
        **{"inner_steps": 2, "unadapted_loss_weight": 1.0, "dtype": "float64", **options},
    )
    model.build({"meta": (None, 3), "other": (None, 2), TAB: (None,)})
    model.compile("sgd", run_eagerly=True)
    for table in model.trainable_variables:  # the projection starts too small to see anything
        table.assign(np.random.default_rng(2).normal(0, 0.5, table.shape))
    return model


def _samples(tabs, real, seed):
    random, shape = np.random.default_rng(seed), (len(tabs), len(tabs[0]))
    return {
        "features": {
            "meta": tf.constant(random.normal(size=(*shape, 3))),
            "other": tf.constant(random.normal(size=(*shape, 2))),
            TAB: tf.constant(tabs, tf.int64),
        },
        "label": tf.constant((random.random(shape) < 0.5).astype(float)),
        "weight": tf.constant((np.arange(shape[1]) < np.array(real)[:, None]).astype(float)),
    }


@pytest.fixture
def support():
    return _samples(TABS, REAL, 1)


def test_sweeps_find_the_mode_of_the_posterior_of_all_offsets_together(support):
    model = _model()
    assert model.adaptation == "gauss-newton"
    adapted = model.adapt_tasks(support, 20)
    offsets = [tf.convert_to_tensor(w) for w in adapted.weights]
    assert [tuple(o.shape) for o in offsets] == [(4, 3), (5, 3)]  # tabs 7 8 | 8 | 7 9
    with tf.GradientTape() as tape:
        tape.watch(offsets)
        outputs = model.adapted_outputs(adapted._replace(weights=offsets), support["features"])
        loss = tf.nn.sigmoid_cross_entropy_with_logits(support["label"], outputs)
        first, second = tf.split(model.precision(), 2)
        penalty = tf.reduce_sum(first * offsets[0] ** 2) + tf.reduce_sum(second * offsets[1] ** 2)
        objective = tf.reduce_sum(support["weight"] * loss) + 0.5 * penalty
    for gradient in tape.gradient(objective, offsets):
        np.testing.assert_allclose(gradient, np.zeros(gradient.shape), atol=1e-7)
    np.testing.assert_array_equal(offsets[0][3], np.zeros(3))  # no rows, no offset
    assert all(np.abs(offset[:3]).max() > 1e-2 for offset in offsets)


def test_each_sweep_lowers_the_objective_and_rows_of_unknown_subtasks_follow_the_task(support):
    model = _model()
    losses = model.adapt_tasks(support, 4).losses
    assert len(losses) == 4
    assert (losses[1][:3] < losses[0][:3]).numpy().all()
    query = _samples([[3, 3], [7, 3], [3, 3], [3, 3]], [2, 2, 2, 2], 2)
    adapted = model.adapt_tasks(support, 4)
    alone = [adapted.weights[0], tf.zeros_like(adapted.weights[1])]
    expected = model.adapted_outputs(adapted._replace(weights=alone), query["features"])
    actual = model.adapted_outputs(adapted, query["features"])
    np.testing.assert_allclose(actual, expected, atol=1e-12)
    np.testing.assert_allclose(
        actual[3], model.adapted_outputs(model.adapt_tasks(support, None), query["features"])[3]
    )


def test_the_outer_gradient_is_that_of_finite_differences(support):
    model, query = _model(), _samples([[7, 8], [8, 7], [9, 3], [7, 7]], [2, 2, 2, 1], 2)
    assert_outer_gradient(model, support, query)


def test_the_outer_loss_holds_the_loss_of_all_rows_before_adaptation(support):
    model, query = _model(), _samples([[7, 8], [8, 7], [9, 3], [7, 7]], [2, 2, 2, 1], 2)
    samples = (support, query)
    none = [model.adapt_tasks(s, None) for s in samples]
    losses = [
        model.task_loss(model.adapted_outputs(n, s["features"]), s)
        for n, s in zip(none, samples, strict=True)
    ]
    rows = [tf.reduce_sum(s["weight"], -1) for s in samples]
    expected = (losses[0] * rows[0] + losses[1] * rows[1]) / (rows[0] + rows[1])
    np.testing.assert_allclose(model.outer_loss(*samples).auxiliary, expected)


def test_padding_and_neighbours_change_nothing(support):
    model = _model()
    whole = model.adapt_tasks(support, 2)
    alone = tf.nest.map_structure(lambda v: v[2:3, :4], support)
    np.testing.assert_allclose(model.adapt_tasks(alone, 2).weights[0][0], whole.weights[0][2])
    np.testing.assert_allclose(model.adapt_tasks(alone, 2).weights[1], whole.weights[1][3:])


def test_what_is_stored_are_the_offsets_and_scores_from_them_are_the_adapted_ones(support):
    model = _model(fine_tune_steps=3)
    adapted, stored = model.adapt_tasks(support, 3), model.task_embeddings(support)
    np.testing.assert_allclose(stored.embedding[:3], adapted.weights[0][:3])
    np.testing.assert_allclose(stored.nested[0].embedding, adapted.weights[1])
    assert model.prior_variance() is None
    query = _samples([[7, 8, 3], [8, 7, 8], [9, 3, 7], [7, 7, 8]], [3, 3, 3, 3], 2)
    np.testing.assert_allclose(
        served_outputs(model, support, query),
        model.outputs_of(adapted, query),
        atol=1e-12,
    )


def test_no_sweep_and_no_strength_leave_tasks_unadapted(support):
    model = _model()
    unadapted = model.adapted_outputs(model.adapt_tasks(support, None), support["features"])
    none = model.adapt_tasks(support, 0)
    np.testing.assert_allclose(model.adapted_outputs(none, support["features"]), unadapted)
    np.testing.assert_allclose(none.losses[0], model.task_loss(unadapted, support))
    model.adaptation_strength = 0.0
    adapted = model.adapt_tasks(support, 2)
    np.testing.assert_allclose(model.adapted_outputs(adapted, support["features"]), unadapted)


def test_training_lowers_the_loss_and_a_saved_model_adapts_alike(support, tmp_path):
    model, query = _model(), _samples([[7, 8], [8, 7], [9, 3], [7, 7]], [2, 2, 2, 1], 2)
    losses = [float(model.train_step({"support": support, "query": query})["loss"])]
    for _ in range(2):
        losses.append(float(model.train_step({"support": support, "query": query})["loss"]))
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for actual, expected in zip(
        again.adapt_tasks(support, 2).weights, model.adapt_tasks(support, 2).weights, strict=True
    ):
        np.testing.assert_allclose(actual, expected)
