"""The closed form against a solution of its own: the whole model again in NumPy and float64.

The network, the damped steps, the losses and the variances are written out for one fixed case; the
outer gradient is checked against differences of that second computation.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf

from tfrec_limaml import DotProductGlobalBlock, LiMAML, OffsetMetaBlock

SHAPES = {"meta": (None, 3), "other": (None, 2), "item": (None,)}
TASKS, SUPPORT, QUERY, D = 4, 6, 3, 4
STEPS = 2
SHARES = (1.0, 0.5, 0.25, 0.0625, 0.015625, 0.0)


def _rows(rows, seed):
    random = np.random.default_rng(seed)
    return {
        "meta": random.normal(size=(TASKS, rows, 3)),
        "other": random.normal(size=(TASKS, rows, 2)),
        "item": random.integers(0, 9, (TASKS, rows)),
        "label": (random.random((TASKS, rows)) < 0.5).astype(float),
        "weight": random.random((TASKS, rows)) * (random.random((TASKS, rows)) < 0.8),
    }


def _samples(rows):
    features = {name: tf.constant(rows[name]) for name in ("meta", "other")}
    features["item"] = tf.constant(rows["item"], tf.int32)
    return {"features": features, **{n: tf.constant(rows[n]) for n in ("label", "weight")}}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    model = LiMAML(
        OffsetMetaBlock((5,), D, dtype="float64"),
        DotProductGlobalBlock((6, 5), embeddings={"item": (9, 3)}, dtype="float64"),
        inner_steps=STEPS,
        unadapted_loss_weight=0.7,
        averaging="sample",
        dtype="float64",
    )
    model.build(SHAPES)
    model.compile("sgd", run_eagerly=True)
    random = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.8, variable.shape))
    model.scaled_log_precision.assign(random.normal(0, 0.05, D))
    return model


def _parameters(model):
    """Name to value; names are short forms of the variables' places."""
    head, meta = model.global_block, model.meta_block.shared
    layers = {
        "meta1": meta.network.layers[0],
        "meta2": meta.network.layers[1],
        "hidden1": head.network.layers[0],
        "hidden2": head.network.layers[1],
        "logit": head.logit_layer,
        "projection": head.projection_layer,
    }
    found = {f"{n}_kernel": layer.kernel for n, layer in layers.items()}
    found |= {f"{n}_bias": layer.bias for n, layer in layers.items() if layer.use_bias}
    found["item"] = head.inputs_layer.tables["item"]
    found["projected"] = head.tables["item"].tables["item"]
    found["log_precision"] = model.scaled_log_precision
    assert {id(v) for v in found.values()} == {id(v) for v in model.trainable_variables}
    return found


def _gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def _network(p, rows):
    """Un-adapted logits ``[T, N]`` and what multiplies the offset ``[T, N, D]``."""
    hidden = _gelu(rows["meta"] @ p["meta1_kernel"] + p["meta1_bias"])
    embedding = hidden @ p["meta2_kernel"] + p["meta2_bias"]
    inputs = np.concatenate([rows["meta"], rows["other"], p["item"][rows["item"]]], -1)
    hidden = _gelu(inputs @ p["hidden1_kernel"] + p["hidden1_bias"])
    hidden = _gelu(hidden @ p["hidden2_kernel"] + p["hidden2_bias"])
    projection = hidden @ p["projection_kernel"] + p["projected"][rows["item"]]
    projection = np.concatenate([projection, np.ones((*projection.shape[:2], 1))], -1)
    logit = (hidden @ p["logit_kernel"] + p["logit_bias"])[..., 0]
    return logit + (projection * embedding).sum(-1), projection


def _loss(label, logit):
    return np.logaddexp(0, logit) - label * logit


def _solve(base, inputs, label, weight, precision):
    """One task: offset, the diagonal of the inverse matrix, the share of each step."""
    offset, shares, matrix = np.zeros(D), [], None

    def objective(point):
        losses = _loss(label, base + inputs @ point)
        return (weight * losses).sum() + 0.5 * (precision * point**2).sum()

    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-(base + inputs @ offset)))
        curvature = weight * np.maximum(probability * (1 - probability), 1e-4)
        matrix = inputs.T @ np.diag(curvature) @ inputs + np.diag(precision)
        gradient = inputs.T @ (weight * (probability - label)) + precision * offset
        step = -np.linalg.solve(matrix, gradient)
        values = np.array([objective(offset + share * step) for share in SHARES])
        good = values <= values.min() + 1e-5 * (1 + abs(values.min()))
        shares.append(SHARES[int(np.argmax(good))])
        offset = offset + shares[-1] * step
    return offset, np.diag(np.linalg.inv(matrix)), shares


def _mean(weight, values):
    total = weight.sum(-1)
    return np.where(total > 0, (weight * values).sum(-1) / np.maximum(total, 1e-300), 0.0)


def _everything(p, support, query):
    precision = np.exp(10 * p["log_precision"])
    base, inputs = _network(p, support)
    query_base, query_inputs = _network(p, query)
    solved = [
        _solve(base[t], inputs[t], support["label"][t], support["weight"][t], precision)
        for t in range(TASKS)
    ]
    offset = np.array([one[0] for one in solved])
    before = _mean(support["weight"], _loss(support["label"], base))
    adapted = base + np.einsum("tnd,td->tn", inputs, offset)
    of_query = query_base + np.einsum("tnd,td->tn", query_inputs, offset)
    loss = _mean(query["weight"], _loss(query["label"], of_query))
    unadapted = _mean(query["weight"], _loss(query["label"], query_base))
    counts = support["weight"].sum(-1), query["weight"].sum(-1)
    auxiliary = (counts[0] * before + counts[1] * unadapted) / (counts[0] + counts[1])
    outer = (counts[1] * (loss + 0.7 * auxiliary)).sum() / counts[1].sum()
    return {
        "offset": offset,
        "variance": np.array([one[1] for one in solved]),
        "shares": [one[2] for one in solved],
        "before": before,
        "after": _mean(support["weight"], _loss(support["label"], adapted)),
        "outer": outer,
    }


def test_embedding_losses_and_variances_are_those_of_the_second_computation(model):
    support, query = _rows(SUPPORT, 1), _rows(QUERY, 2)
    expected = _everything({n: v.numpy() for n, v in _parameters(model).items()}, support, query)
    stored = model.task_embeddings(_samples(support))
    np.testing.assert_allclose(stored.embedding, expected["offset"], rtol=1e-6)
    np.testing.assert_allclose(stored.loss_before, expected["before"], rtol=1e-6)
    np.testing.assert_allclose(stored.loss_after, expected["after"], rtol=1e-6)
    np.testing.assert_allclose(stored.variance, expected["variance"], rtol=1e-6)
    adapted = model.adapt_tasks(_samples(support), STEPS)
    np.testing.assert_array_equal(adapted.variance, stored.variance)
    assert any(share < 1 for shares in expected["shares"] for share in shares), (
        "the case must damp a step"
    )


def test_the_outer_loss_and_its_gradient_are_those_of_the_second_computation(model):
    support, query = _rows(SUPPORT, 1), _rows(QUERY, 2)
    pair = _samples(support), _samples(query)
    loss, gradients, _ = model._gradients(*pair, model.outer_count(*pair))
    by_variable = {
        id(v): g.numpy() for v, g in zip(model.trainable_variables, gradients, strict=True)
    }
    variables = _parameters(model)
    start = {n: v.numpy() for n, v in variables.items()}
    np.testing.assert_allclose(loss, _everything(start, support, query)["outer"], rtol=1e-6)
    random = np.random.default_rng(3)
    for name, value in start.items():
        direction = random.normal(size=value.shape)
        ends = [
            _everything({**start, name: value + sign * 1e-6 * direction}, support, query)["outer"]
            for sign in (1, -1)
        ]
        actual = (by_variable[id(variables[name])] * direction).sum()
        np.testing.assert_allclose(
            actual, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8, err_msg=name
        )


def test_a_task_that_the_system_does_not_know_has_the_variance_of_the_prior(model):
    support = _rows(SUPPORT, 1)
    support["weight"][1] = 0
    prior = np.array(model.prior_variance())
    variance = model.adapt_tasks(_samples(support), STEPS).variance.numpy()
    np.testing.assert_allclose(variance[1], prior, rtol=1e-6)
    assert (variance < prior * (1 + 1e-9)).all()
    assert (variance[[0, 2, 3]] < 0.999 * prior).any(1).all()
