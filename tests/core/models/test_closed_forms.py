"""The inner and the outer loop against theory: quadratic tasks, finite differences, invariances."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import EntireNetworkMAML, LiMAML, MLPGlobalBlock, MLPMetaBlock, Vanilla
from tfrec_limaml.adaptation.inner_loop import adapt
from tfrec_limaml.adaptation.inner_weights import with_task_axis
from tfrec_limaml.adaptation.pooling import latest_index, pool
from tfrec_limaml.models.maml_model import KAPPA_RATE

SHAPES = {"meta": (None, 3), "other": (None, 2)}


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_on_a_quadratic_each_step_shrinks_the_error_by_one_minus_alpha(steps):
    start, optimum, learning_rate = (
        tf.constant([[3.0], [-1.0]], tf.float64),
        tf.constant([[1.0], [2.0]], tf.float64),
        0.3,
    )
    result = adapt(
        [start], lambda w: 0.5 * tf.reduce_sum((w[0] - optimum) ** 2, -1), steps, learning_rate
    )
    np.testing.assert_allclose(
        result.weights[0] - optimum, (1 - learning_rate) ** steps * (start - optimum), rtol=1e-12
    )
    assert len(result.losses) == steps


@pytest.mark.parametrize(("exact", "expected"), [(None, 0.7**3), (0, 1.0), (1, 0.7), (2, 0.7**2)])
def test_the_meta_gradient_on_a_quadratic_counts_the_exact_steps(exact, expected):
    shared = tf.Variable([[5.0]], dtype=tf.float64)
    with tf.GradientTape() as tape:
        adapted = adapt(
            [tf.convert_to_tensor(shared)],
            lambda w: 0.5 * tf.reduce_sum(w[0] ** 2, -1),
            3,
            0.3,
            exact,
        ).weights[0]
    np.testing.assert_allclose(tape.gradient(adapted, shared), [[expected]], rtol=1e-12)


def test_each_weight_follows_its_own_rate():
    weights = [tf.ones([1, 2], tf.float64), tf.ones([1, 1], tf.float64)]
    rates = [tf.constant([0.0, 0.5], tf.float64), tf.constant([0.25], tf.float64)]
    adapted = adapt(
        weights, lambda w: tf.reduce_sum(w[0], -1) + tf.reduce_sum(w[1], -1), 1, rates
    ).weights
    np.testing.assert_allclose(adapted[0], [[1.0, 0.5]])
    np.testing.assert_allclose(adapted[1], [[0.75]])


def _samples(rng, tasks, size, lengths=None):
    weight = (
        np.ones((tasks, size))
        if lengths is None
        else (np.arange(size) < np.asarray(lengths)[:, None]).astype(float)
    )
    return {
        "features": {
            "meta": tf.constant(rng.normal(size=(tasks, size, 3))),
            "other": tf.constant(rng.normal(size=(tasks, size, 2))),
        },
        "label": tf.constant((rng.random((tasks, size)) < 0.5).astype(float)),
        "weight": tf.constant(weight),
    }


def _gradients(model, support, query):
    return model._gradients(support, query, model.outer_count(support, query))


def _model(cls=LiMAML, **kwargs):
    keras.utils.set_random_seed(3)
    model = cls(
        MLPMetaBlock((4,), 2, activation="tanh", dtype="float64"),
        MLPGlobalBlock((5,), activation="tanh", dtype="float64"),
        dtype="float64",
        **{"inner_learning_rate": 0.5, **kwargs},
    )
    model.compile("sgd", run_eagerly=True)
    model.build(SHAPES)
    return model


def _loss(model, support, query):
    outer = model.outer_loss(support, query)
    total = outer.losses if outer.auxiliary is None else outer.losses + outer.auxiliary
    return float(tf.reduce_sum(total * outer.weights) / model.outer_count(support, query))


_TWO_STEPS = {"inner_steps": 2, "unadapted_loss_weight": 0.5}


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (LiMAML, _TWO_STEPS),
        (EntireNetworkMAML, _TWO_STEPS),
        (Vanilla, {}),
        (LiMAML, {**_TWO_STEPS, "support_reduction": "sum"}),
        (LiMAML, {**_TWO_STEPS, "support_reduction": "shrunk"}),
        (EntireNetworkMAML, {**_TWO_STEPS, "support_reduction": "shrunk"}),
    ],
)
def test_outer_gradients_match_finite_differences(cls, options):
    rng = np.random.default_rng(0)
    support, query = _samples(rng, 3, 4, [4, 1, 3]), _samples(rng, 3, 2, [2, 2, 1])
    model = _model(cls, **options)
    loss, gradients, _ = _gradients(model, support, query)
    assert float(loss) == pytest.approx(_loss(model, support, query), rel=1e-12)
    step = 1e-5
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        value = np.array(variable)
        index = np.unravel_index(np.argmax(np.abs(gradient)), value.shape)
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] += sign * step
            variable.assign(moved)
            ends.append(_loss(model, support, query))
        variable.assign(value)
        np.testing.assert_allclose(
            np.asarray(gradient)[index],
            (ends[0] - ends[1]) / (2 * step),
            rtol=1e-6,
            err_msg=variable.path,
        )


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML])
@pytest.mark.parametrize(
    ("reduction", "factor"), [("sum", lambda n: n), ("shrunk", lambda n: n / (n + 3.0))]
)
def test_the_reduction_of_the_support_loss_scales_a_step_by_the_number_of_rows(
    cls, reduction, factor
):
    support = _samples(np.random.default_rng(8), 4, 6, [6, 1, 0, 3])
    rows = np.array([6.0, 1.0, 0.0, 3.0])
    mean, scaled = _model(cls), _model(cls, support_reduction=reduction)
    if reduction == "shrunk":
        scaled.scaled_log_kappa.assign(np.log(3.0) / KAPPA_RATE)
    moved = [
        [with_task_axis(w) - v for w, v in zip(weights, model.inner_variables, strict=True)]
        for model in (mean, scaled)
        for weights in [model.adapt_tasks(support, 1).weights]
    ]
    for full, part in zip(*moved, strict=True):
        scale = factor(rows).reshape([-1] + [1] * (full.ndim - 1))
        np.testing.assert_allclose(part, full * scale, rtol=1e-10, atol=1e-14)
    assert max(np.abs(full).max() for full in moved[0]) > 1e-3


def test_kappa_is_learned_by_first_order_steps_too():
    rng = np.random.default_rng(9)
    support, query = _samples(rng, 3, 4), _samples(rng, 3, 4)
    model = _model(first_order=True, support_reduction="shrunk")
    gradients = dict(
        zip(
            [v.name for v in model.trainable_variables],
            _gradients(model, support, query)[1],
            strict=True,
        )
    )
    assert abs(float(gradients["scaled_log_kappa"])) > 1e-4


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML])
def test_a_batch_of_tasks_equals_one_task_at_a_time_in_any_order(cls):
    rng = np.random.default_rng(1)
    support, query = _samples(rng, 4, 5, [5, 2, 1, 3]), _samples(rng, 4, 3)
    model = _model(cls, inner_steps=2)
    adapted = model.adapt_tasks(support, 2)
    together = model.adapted_outputs(adapted, query["features"])
    for task in (2, 0, 3, 1):
        one_support, one_query = (
            tf.nest.map_structure(lambda x, t=task: x[t : t + 1], s) for s in (support, query)
        )
        alone = model.adapted_outputs(model.adapt_tasks(one_support, 2), one_query["features"])
        np.testing.assert_allclose(together[task], alone[0], rtol=1e-12)


def test_padding_changes_nothing():
    rng = np.random.default_rng(2)
    support, query = _samples(rng, 3, 4, [4, 2, 1]), _samples(rng, 3, 2)
    junk = _samples(rng, 3, 3, [0, 0, 0])
    padded = tf.nest.map_structure(lambda a, b: tf.concat([a, b], 1), support, junk)
    model = _model(inner_steps=2)
    for short, long in zip(
        _gradients(model, support, query)[1], _gradients(model, padded, query)[1], strict=True
    ):
        np.testing.assert_allclose(short, long, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(
        model.task_embeddings(support)[0], model.task_embeddings(padded)[0], rtol=1e-12
    )


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML])
def test_without_steps_the_plain_network_scores(cls):
    query = _samples(np.random.default_rng(3), 2, 3)
    model = _model(cls, inner_steps=0)
    outputs = model.adapted_outputs(model.adapt_tasks(query, 0), query["features"])
    flat = {name: tf.reshape(value, [6, -1]) for name, value in query["features"].items()}
    np.testing.assert_allclose(tf.sigmoid(tf.reshape(outputs, [-1])), model(flat), rtol=1e-12)


def test_without_inner_steps_limaml_has_the_gradient_of_vanilla_on_the_query():
    rng = np.random.default_rng(4)
    support, query = _samples(rng, 3, 2, [0, 0, 0]), _samples(rng, 3, 4)
    limaml, vanilla = _model(inner_steps=0), _model(Vanilla, averaging="task")
    vanilla.set_weights(limaml.get_weights())
    for a, b in zip(
        _gradients(limaml, support, query)[1], _gradients(vanilla, support, query)[1], strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_a_task_without_support_keeps_the_shared_weights():
    rng = np.random.default_rng(5)
    model = _model(inner_steps=3)
    weights, losses, *_ = model.adapt_tasks(_samples(rng, 2, 3, [0, 3]), 3)
    kernels = with_task_axis(weights[0])
    # Every gradient is a sum of zeros: exact on any processor.
    np.testing.assert_array_equal(kernels[0], model.inner_variables[0])
    assert np.abs(kernels[1] - model.inner_variables[0]).max() > 0
    assert float(losses[0][0]) == 0.0


def test_a_task_with_nan_features_is_dropped_counted_and_poisons_nothing():
    rng = np.random.default_rng(6)
    support, query = _samples(rng, 3, 4), _samples(rng, 3, 2)
    bad = tf.nest.map_structure(tf.identity, support)
    bad["features"]["meta"] = tf.tensor_scatter_nd_update(
        bad["features"]["meta"], [[1, 0, 0]], [np.nan]
    )
    keep = tf.constant([0, 2])
    clean_support, clean_query = (
        tf.nest.map_structure(lambda x: tf.gather(x, keep), s) for s in (support, query)
    )
    models = [_model(inner_steps=1) for _ in range(2)]
    models[0].train_step({"support": bad, "query": query})
    models[1].train_step({"support": clean_support, "query": clean_query})
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        if a.dtype == np.float64:
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert int(models[0].dropped_tasks.value) == 1


@pytest.mark.parametrize(
    "argument",
    [
        {"inner_steps": -1},
        {"inner_learning_rate": -0.1},
        {"averaging": "row"},
        {"pooling": "median"},
        {"support_reduction": "median"},
    ],
)
def test_arguments_out_of_range_are_named(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"{name}.*{next(iter(argument.values()))}"):
        _model(**argument)


def test_pooling_ignores_padding():
    embeddings = tf.constant([[[1.0, 0.0], [3.0, 4.0], [100.0, 100.0]]])
    weight = tf.constant([[1.0, 1.0, 0.0]])
    assert latest_index(weight).numpy().tolist() == [1]
    expected = {
        "latest": [3.0, 4.0],
        "mean": [2.0, 2.0],
        "max": [3.0, 4.0],
        "cosine": [(0.6 + 3) / 1.6, 4 / 1.6],
    }
    for how, value in expected.items():
        np.testing.assert_allclose(pool(embeddings, weight, how), [value], rtol=1e-6, err_msg=how)


def test_pooling_by_similarity_leaves_out_what_is_opposite_to_the_latest():
    embeddings = tf.constant([[[1.0, 0.0], [-3.0, -4.0], [3.0, 4.0]]])
    pooled = pool(embeddings, tf.ones([1, 3]), "cosine")
    np.testing.assert_allclose(pooled, [[(0.6 + 3) / 1.6, 4 / 1.6]], rtol=1e-6)
