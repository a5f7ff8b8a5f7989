"""Heads that are linear in the meta embedding: the closed form calls them once, with the same
result.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from joint_fixtures import joint_model

from tfrec_limaml import LiMAML
from tfrec_limaml.blocks import (
    BilinearGlobalBlock,
    DotProductGlobalBlock,
    MLPGlobalBlock,
    NestedMetaBlocks,
    OffsetMetaBlock,
    WideAndDeepGlobalBlock,
)
from tfrec_limaml.blocks.optional_methods import is_linear
from tfrec_limaml.features import OTHER_ROW, SIDE
from tfrec_limaml.models import closed_form, joint

SUBTASK = "subtask:tab"
SHAPE = TASKS, ROWS = 4, 5


def _numbers(block, embedding):
    """The logits of one context at an embedding, as a function of it."""
    keras.utils.set_random_seed(1)
    features = {"meta": keras.random.normal([6, 3]), "other": keras.random.normal([6, 2])}
    block(features, embedding)
    context = block.encode_context(features)
    return lambda value: block.head(context, value)


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (DotProductGlobalBlock((5,)), [1, 2, 3, 6]),
        (BilinearGlobalBlock((5,)), [2]),
        (MLPGlobalBlock((5,)), []),
        (WideAndDeepGlobalBlock((5,)), []),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_block_is_linear_in_the_parts_that_it_says(block, parts):
    """Of a linear function of a part, the second differences are zero."""
    random = np.random.default_rng(2)
    base, change = tf.constant(random.normal(size=(2, 6, 6)), tf.float32)
    logits = _numbers(block, base)
    for number in (1, 2, 3, 6):
        curved = 0.0
        for part in range(number):
            inside = (np.arange(6) // (6 // number) == part).astype(np.float32)
            at = [logits(base + share * inside * change) for share in (0.0, 1.0, 2.0)]
            curved = max(curved, float(tf.reduce_max(tf.abs(at[0] - 2 * at[1] + at[2]))))
        if number in parts:
            assert curved < 1e-5
        elif number == 1:  # smaller parts may be free of products by chance
            assert curved > 1e-4
        assert is_linear(block, number) == (number in parts)


def test_a_block_with_another_head_is_not_taken_to_be_linear():
    class Other(DotProductGlobalBlock):
        def head(self, context, meta_embedding, training=False):
            return tf.square(super().head(context, meta_embedding))

    assert not is_linear(Other((4,)), 1)


def _model(meta_block, global_block, **options):
    model = LiMAML(meta_block, global_block, unadapted_loss_weight=1.0, dtype="float64", **options)
    return model


def _offsets():
    return OffsetMetaBlock((5,), 3, dtype="float64")


def _dot_product():
    return DotProductGlobalBlock((6, 5), projection_scale=1.0, dtype="float64")


MODELS = {
    "one definition": lambda **k: _model(_offsets(), _dot_product(), **k),
    "nested": lambda **k: _model(
        NestedMetaBlocks({"user": _offsets(), "tab": _offsets()}, dtype="float64"),
        _dot_product(),
        **k,
    ),
    "two sides": lambda **k: joint_model(dtype="float64", **k),
}


def _samples(random, model):
    values = {
        "meta": random.normal(size=(*SHAPE, 2)),
        "other": random.normal(size=(*SHAPE, 2)),
        SUBTASK: random.integers(1, 4, SHAPE),
        SIDE: np.zeros(SHAPE, np.int32),
        OTHER_ROW: random.integers(0, 3, SHAPE).astype(np.int32),
    }
    names = {"meta", "other", *({SIDE, OTHER_ROW} if hasattr(model, "table") else {SUBTASK})}
    return {
        "features": {name: tf.constant(values[name]) for name in names},
        "label": tf.constant((random.random(SHAPE) < 0.5).astype(float)),
        "weight": tf.constant((random.random(SHAPE) < 0.8).astype(float)),
    }


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_the_result_and_its_gradients_are_those_of_any_head(kind, steps, monkeypatch):
    keras.utils.set_random_seed(1)
    model, random = MODELS[kind](inner_steps=steps), np.random.default_rng(2)
    support, query = _samples(random, model), _samples(random, model)
    model.compile("sgd")
    if not model.built:
        model.build({name: (None, *v.shape[2:]) for name, v in support["features"].items()})
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.3, variable.shape))
    if hasattr(model, "table"):
        model.table.assign(random.normal(size=(3, model.meta_block.stored_dim)))

    def results():
        heads = []
        block, head = model.global_block, type(model.global_block).head
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(block), "head", lambda *a, **k: heads.append(0) or head(*a, **k))
            count = model.outer_count(support, query)
            loss, gradients, _ = model._gradients(support, query, count)
        return [loss, *gradients], len(heads)

    linear, few = results()
    for module in (closed_form, joint):
        monkeypatch.setattr(module, "is_linear", lambda block, parts: False)
    expected, many = results()
    assert few < many
    for a, b in zip(linear, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert sum(np.abs(g).max() > 1e-6 for g in expected[1:]) > len(expected) // 2
