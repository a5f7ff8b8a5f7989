"""LiMAML with closed-form adaptation: training, storing, saving."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from finite_differences import assert_outer_gradient
from toys import untuned

from tfrec_limaml import LiMAML
from tfrec_limaml.blocks import (
    DotProductGlobalBlock,
    MLPGlobalBlock,
    MLPMetaBlock,
    NestedMetaBlocks,
    OffsetMetaBlock,
)
from tfrec_limaml.evaluation.adaptation import served_outputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised_graphs")]

SHAPES = {"meta": (None, 3), "other": (None, 2), "item": (None,)}
ITEMS = {"item": (9, 3)}


def _samples(tasks, samples, seed, varying=False):
    random = np.random.default_rng(seed)
    meta = random.normal(size=(tasks, samples if varying else 1, 3))
    return {
        "features": {
            "meta": tf.constant(np.broadcast_to(meta, (tasks, samples, 3))),
            "other": tf.constant(random.normal(size=(tasks, samples, 2))),
            "item": tf.constant(random.integers(0, 9, (tasks, samples)), tf.int32),
        },
        "label": tf.constant((random.random((tasks, samples)) < 0.5).astype(float)),
        "weight": tf.constant((random.random((tasks, samples)) < 0.8).astype(float)),
    }


def _model(head="dot", dtype="float64", **options):
    keras.utils.set_random_seed(1)
    make = {"dot": DotProductGlobalBlock, "mlp": MLPGlobalBlock}[head]
    model = LiMAML(
        OffsetMetaBlock((5,), 4, dtype=dtype),
        make((6, 5), "gelu", embeddings=ITEMS, dtype=dtype),
        **{
            "adaptation": "gauss-newton",
            "inner_steps": 2,
            "unadapted_loss_weight": 1.0,
            "averaging": "sample",
            "dtype": dtype,
            **options,
        },
    )
    model.build(SHAPES)
    model.compile("sgd", run_eagerly=True)
    for table in model.trainable_variables:  # the projection starts too small to see anything
        table.assign(np.random.default_rng(2).normal(0, 0.5, table.shape))
    return model


def test_adaptation_finds_the_mode_of_the_posterior():
    model, support = _model(), _samples(4, 6, 1)
    adapted = model.adapt_tasks(support, 20)
    offset = adapted.weights[0]
    with tf.GradientTape() as tape:
        tape.watch(offset)
        outputs = model.adapted_outputs(adapted._replace(weights=[offset]), support["features"])
        loss = tf.nn.sigmoid_cross_entropy_with_logits(support["label"], outputs)
        penalty = 0.5 * tf.reduce_sum(model.precision() * tf.square(offset))
        objective = tf.reduce_sum(support["weight"] * loss) + penalty
    np.testing.assert_allclose(tape.gradient(objective, offset), np.zeros((4, 4)), atol=1e-8)


@pytest.mark.parametrize("head", ["dot", "mlp"])
def test_the_outer_gradient_is_that_of_finite_differences(head):
    model, support, query = _model(head), _samples(4, 6, 1), _samples(4, 3, 2)
    assert_outer_gradient(model, support, query)


def test_what_is_stored_is_the_offset_and_rows_keep_what_varies_between_them():
    model = _model(fine_tune_steps=3)
    support, query = _samples(4, 6, 1, varying=True), _samples(4, 3, 2, varying=True)
    stored = model.task_embeddings(support)
    adapted = model.adapt_tasks(support, 3)
    np.testing.assert_allclose(stored.embedding, adapted.weights[0], rtol=1e-12)
    served = served_outputs(model, support, query)
    expected = model.outputs_of(adapted, query)
    np.testing.assert_allclose(served, expected, rtol=1e-9)
    assert (stored.loss_after < stored.loss_before).numpy().all()


@pytest.mark.parametrize("adaptation", ["gauss-newton", "gradient"])
@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_training_does_not_depend_on_the_strength_that_was_chosen_after_it(adaptation, strength):
    model, support, query = _model(adaptation=adaptation), _samples(4, 6, 1), _samples(4, 3, 2)
    losses = model.outer_loss(support, query).losses
    model.adaptation_strength = strength
    np.testing.assert_allclose(model.outer_loss(support, query).losses, losses, rtol=1e-12)
    weak = model.adapt_tasks(support, 2).weights[0]
    assert not np.allclose(weak, model.adapt_tasks(support, 2, training=True).weights[0])


def test_strength_zero_does_not_adapt_and_a_weak_prior_adapts_further():
    model, support, query = _model(), _samples(4, 6, 1), _samples(4, 3, 2)
    unadapted = model.adapted_outputs(model.adapt_tasks(support, 0), query["features"])
    lengths = []
    for strength in (0.0, 0.5, 1.0, 4.0):
        model.adaptation_strength = strength
        adapted = model.adapt_tasks(support, 2)
        lengths.append(float(tf.norm(adapted.weights[0])))
        if strength == 0:
            outputs = model.adapted_outputs(adapted, query["features"])
            np.testing.assert_allclose(outputs, unadapted, rtol=1e-12)
    assert lengths == sorted(lengths)
    assert lengths[0] == 0 < lengths[1] < lengths[3]


def test_training_learns_the_prior_and_a_saved_model_scores_the_same(tmp_path):
    model = _model(dtype="float32")
    support, query = _samples(8, 6, 1), _samples(8, 3, 2)
    cast = lambda v: tf.cast(v, tf.float32) if v.dtype == tf.float64 else v  # noqa: E731
    batch = tf.nest.map_structure(cast, {"support": support, "query": query})
    dataset = untuned(tf.data.Dataset.from_tensors(batch).repeat(3))
    before = model.precision().numpy()
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(dataset, validation_data=dataset, verbose=0)
    assert np.abs(model.precision().numpy() - before).max() > 0.01
    model.adaptation_strength = 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.adaptation_strength == 0.5
    expected = model.task_embeddings(batch["support"])
    actual = loaded.task_embeddings(batch["support"])
    np.testing.assert_allclose(actual.embedding, expected.embedding, rtol=1e-5, atol=1e-6)


def test_evaluation_reports_the_auc_before_adaptation_too():
    model = _model(dtype="float32")
    cast = lambda v: tf.cast(v, tf.float32) if v.dtype == tf.float64 else v  # noqa: E731
    batch = {"support": _samples(8, 6, 1), "query": _samples(8, 3, 2)}
    dataset = untuned(tf.data.Dataset.from_tensors(tf.nest.map_structure(cast, batch)))
    adapted = model.evaluate(dataset, return_dict=True, verbose=0)
    model.fine_tune = False
    unadapted = model.evaluate(dataset, return_dict=True, verbose=0)
    assert adapted["unadapted_auc"] == pytest.approx(unadapted["auc"], abs=1e-6)
    assert adapted["auc"] != pytest.approx(unadapted["auc"], abs=1e-3)
    assert "unadapted_auc" not in unadapted


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: LiMAML(MLPMetaBlock(), MLPGlobalBlock(), adaptation="gauss-newton"),
            "adapts the offset of an OffsetMetaBlock, received MLPMetaBlock",
        ),
        (lambda: _model(adaptation="newton"), "must be one of"),
        (lambda: _model(prior_precision=0.0), "prior_precision must be positive, received 0.0"),
        (lambda: _model(prior_precision=1e-5), "must be between 0.00034 and 2980, received 1e-05"),
        (
            lambda: NestedMetaBlocks({"a": OffsetMetaBlock(), "b": MLPMetaBlock((), 33)}),
            "must be OffsetMetaBlocks, .* or none of them, received {'a': 'OffsetMetaBlock', 'b'",
        ),
        (
            lambda: DotProductGlobalBlock().build(SHAPES, (None, 1)),
            "embedding_dim must be at least 2",
        ),
        (
            lambda: DotProductGlobalBlock(embeddings=ITEMS, projected=("price",)),
            r"projected must name features in embeddings, received \['price'\]",
        ),
        (
            lambda: DotProductGlobalBlock(embeddings=ITEMS, embeddings_scales={"item": [1.0]}),
            "embeddings_scales of 'item' needs 9 factors, received 1",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_model_saved_by_version_0_1_0_still_loads_and_scores_the_same():
    from pathlib import Path

    model = keras.saving.load_model(Path(__file__).parent / "data" / "limaml_0_1_0.keras")
    columns = {
        "m": tf.constant([[1.0, 2.0], [3.0, -1.0]]),
        "word": tf.constant(["a", "b"]),
        "o": tf.constant([0.5, 2.0]),
    }
    expected = [0.48810407519340515, 0.6177681088447571]
    np.testing.assert_allclose(model(model.encoder(columns)), expected, rtol=1e-5)
    assert (model.adaptation, model.adaptation_strength) == ("gradient", 1.0)
