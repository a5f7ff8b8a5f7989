"""Reference numbers made by an independent float64 implementation (see ``golden`` beside the shared
data).
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import LiMAML
from tfrec_limaml.adaptation.inner_weights import with_task_axis
from tfrec_limaml.blocks import MLPGlobalBlock, MLPMetaBlock, mlp

pytestmark = pytest.mark.usefixtures("optimised_graphs")

CASES = [(steps, order) for steps in (1, 2, 5) for order in ("second", "first")]


def _samples(golden, name, dtype):
    return {
        "features": {
            "meta": tf.constant(golden[f"{name}.m"], dtype),
            "other": tf.constant(golden[f"{name}.o"], dtype),
        },
        "label": tf.constant(golden[f"{name}.y"], dtype),
        "weight": tf.constant(golden[f"{name}.w"], dtype),
    }


def _gradients(model, support, query):
    return model._gradients(support, query, model.outer_count(support, query))


def _model(golden, dtype, **kwargs):
    meta = MLPMetaBlock((8,), 4, dtype=dtype)
    model = LiMAML(
        meta,
        MLPGlobalBlock((10, 7), dtype=dtype),
        inner_learning_rate=float(golden["alpha"]),
        dtype=dtype,
        **kwargs,
    )
    model.compile("sgd")
    model.build({"meta": (None, 6), "other": (None, 5)})
    head = model.global_block
    first = golden["init.global.W1"]
    values = [golden[f"init.meta.{n}"] for n in ("W1", "b1", "W2", "b2")]
    for variable, value in zip(meta.adaptable_variables, values, strict=True):
        variable.assign(value)
    head.context_layer.set_weights([first[:11], golden["init.global.b1"]])
    head.embedding_layer.set_weights([first[11:]])
    head.network.set_weights([golden[f"init.global.{n}"] for n in ("W2", "b2", "W3", "b3")])
    return model


def _expected_gradients(golden, prefix):
    first = golden[f"{prefix}.global.W1"]
    return {
        "hidden_0/kernel": golden[f"{prefix}.meta.W1"],
        "hidden_0/bias": golden[f"{prefix}.meta.b1"],
        "embedding/kernel meta": golden[f"{prefix}.meta.W2"],
        "embedding/bias": golden[f"{prefix}.meta.b2"],
        "context/kernel": first[:11],
        "context/bias": golden[f"{prefix}.global.b1"],
        "embedding/kernel global": first[11:],
        "W2": golden[f"{prefix}.global.W2"],
        "b2": golden[f"{prefix}.global.b2"],
        "W3": golden[f"{prefix}.global.W3"],
        "b3": golden[f"{prefix}.global.b3"],
    }


def _ordered_variables(model):
    head = model.global_block
    layers = [
        *head.context_layer.trainable_variables,
        *head.embedding_layer.trainable_variables,
        *head.network.trainable_variables,
    ]
    return [*model.meta_block.adaptable_variables, *layers]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize(("steps", "order"), CASES)
@pytest.mark.parametrize("dual", [True, False])
def test_losses_weights_embeddings_and_gradients_match_the_reference(
    monkeypatch, golden, dtype, tolerance, steps, order, dual
):
    monkeypatch.setattr(mlp, "DUAL_FROM_WIDTH", 1 if dual else 1000)
    model = _model(golden, dtype, inner_steps=steps, first_order=order == "first")
    support, query = _samples(golden, "support", dtype), _samples(golden, "query", dtype)

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)

    def run():
        adapted = model.adapt_tasks(support, steps)
        outputs = model.adapted_outputs(adapted, query["features"])
        embeddings, before, after, *_ = model.task_embeddings(support)
        loss, gradients, good = _gradients(model, support, query)
        return (
            [with_task_axis(w) for w in adapted.weights],
            adapted.losses,
            outputs,
            model.task_loss(outputs, query),
            embeddings,
            before,
            after,
            loss,
            gradients,
            good,
        )

    # Building these graphs takes much longer than running them: one number of steps is enough.
    traced = tf.function(run) if (steps, dtype) == (2, "float64") else run
    weights, losses, outputs, per_task, embeddings, before, after, loss, gradients, good = traced()
    close(tf.stack(losses, 1), golden[f"n{steps}.support_loss"])
    close(before, golden[f"n{steps}.support_loss"][:, 0])
    close(after, golden[f"n{steps}.support_loss_after"])
    for name, value in zip(("W1", "b1", "W2", "b2"), weights, strict=True):
        close(value, golden[f"n{steps}.adapted.meta.{name}"])
    close(embeddings, golden[f"n{steps}.embedding"])
    close(outputs, golden[f"n{steps}.query_logits"])
    close(per_task, golden[f"n{steps}.query_loss_per_task"])
    close(loss, golden[f"n{steps}.query_loss"])
    assert np.all(good)
    by_variable = {id(v): g for v, g in zip(model.trainable_variables, gradients, strict=True)}
    expected = _expected_gradients(golden, f"n{steps}.{order}.grad")
    for variable, (name, value) in zip(_ordered_variables(model), expected.items(), strict=True):
        np.testing.assert_allclose(
            by_variable[id(variable)], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_first_and_second_order_gradients_differ(golden):
    support, query = _samples(golden, "support", "float64"), _samples(golden, "query", "float64")
    first, second = (
        _gradients(_model(golden, "float64", inner_steps=2, first_order=order), support, query)[1]
        for order in (True, False)
    )
    assert (
        max(float(tf.reduce_max(tf.abs(a - b))) for a, b in zip(first, second, strict=True)) > 1e-4
    )


def test_second_order_in_all_steps_equals_the_default(golden):
    support, query = _samples(golden, "support", "float64"), _samples(golden, "query", "float64")
    all_steps, default = (
        _gradients(
            _model(golden, "float64", inner_steps=2, second_order_steps=steps), support, query
        )[1]
        for steps in (2, None)
    )
    for a, b in zip(all_steps, default, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
