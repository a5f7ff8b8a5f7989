"""The whole network under per-task weights, layer by layer, against `tf.vectorized_map`."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import (
    DotProductGlobalBlock,
    EntireNetworkMAML,
    MLPGlobalBlock,
    MLPMetaBlock,
    OffsetMetaBlock,
    Vanilla,
)
from tfrec_limaml.blocks import DCNGlobalBlock, WideAndDeepGlobalBlock
from tfrec_limaml.blocks.optional_methods import calls_per_task
from tfrec_limaml.models import network

pytestmark = pytest.mark.slow

TASKS, ROWS, META, OTHER, IDS = 3, 5, 6, 4, 7
IDS_OF = {"item": (IDS, 3)}

BLOCKS = {
    "mlp": lambda: (MLPMetaBlock((8,), 4), MLPGlobalBlock((8, 5))),
    "offset, dot product": lambda: (
        OffsetMetaBlock((8,), 4, embeddings=IDS_OF),
        DotProductGlobalBlock((8, 5), embeddings=IDS_OF, projection_scale=1.0),
    ),
    "wide and deep": lambda: (
        MLPMetaBlock((8,), 4, embeddings=IDS_OF),
        WideAndDeepGlobalBlock((8,), wide_ids={"item": IDS}, embeddings=IDS_OF),
    ),
    "a block that is mapped": lambda: (MLPMetaBlock((8,), 4), DCNGlobalBlock()),
}


def _samples(rows, seed):
    rng = np.random.default_rng(seed)
    weight = (np.arange(rows) < rng.integers(1, rows + 1, (TASKS, 1))).astype("float32")
    return {
        "features": {
            "meta": tf.constant(rng.normal(size=(TASKS, rows, META)), tf.float32),
            "other": tf.constant(rng.normal(size=(TASKS, rows, OTHER)), tf.float32),
            "item": tf.constant(rng.integers(0, IDS, (TASKS, rows)), tf.int32),
        },
        "label": tf.constant(rng.integers(0, 2, (TASKS, rows)), tf.float32),
        "weight": tf.constant(weight),
    }


SUPPORT, QUERY = _samples(ROWS, 1), _samples(4, 2)


def _model(cls, blocks, **options):
    keras.utils.set_random_seed(5)
    model = _built(cls(*BLOCKS[blocks](), inner_learning_rate=0.5, **options))
    for number, v in enumerate(model.trainable_variables):  # nothing may start at zero
        v.assign(v + 0.1 * keras.random.normal(v.shape, seed=number))
    return model


def _built(model):
    model.build({"meta": (None, META), "other": (None, OTHER), "item": (None,)})
    return model


def _old(function):
    """`function` with every block mapped over the tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "calls_per_task", lambda block: False)
        return tf.function(function, autograph=False)()


def _adapted(model, steps):
    """Outputs of query and support rows, and the losses on the way."""
    tasks = model.adapt_tasks(SUPPORT, steps)
    parts = (QUERY, SUPPORT)
    return [model.adapted_outputs(tasks, part["features"]) for part in parts], tasks.losses


@functools.cache
def _mapped(blocks, steps):
    """`_adapted` with every block mapped over the tasks."""
    model = _model(Vanilla, blocks)
    return _old(lambda: _adapted(model, steps))


@pytest.mark.parametrize(("wide", "steps"), [(0, 1), (0, 2), (1e9, 2)])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_fine_tuned_networks_score_as_when_mapped_over_tasks(blocks, steps, wide, monkeypatch):
    model = _model(Vanilla, blocks)
    expected = _mapped(blocks, steps)
    monkeypatch.setattr(network, "WIDE", wide)
    actual = _adapted(model, steps)
    for ours, theirs in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    unadapted = model.adapted_outputs(model.adapt_tasks(QUERY, None), QUERY["features"])
    assert np.abs(actual[0][0] - unadapted).max() > 1e-2


@pytest.mark.parametrize(
    "options",
    [{}, {"first_order": True}, {"second_order_steps": 1}, {"learn_inner_rates": True}],
    ids=["second order", "first order", "last step in second order", "learned rates"],
)
@pytest.mark.parametrize("blocks", ["mlp", "offset, dot product"])
def test_outer_gradients_are_those_of_networks_mapped_over_tasks(blocks, options, monkeypatch):
    model = _model(EntireNetworkMAML, blocks, inner_steps=2, **options)
    monkeypatch.setattr(network, "WIDE", 0)
    variables = [v.value for v in model.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.outer_loss(SUPPORT, QUERY).losses)
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    actual, expected = gradients(), _old(gradients)
    for v, ours, theirs in zip(model.trainable_variables, actual, expected, strict=True):
        ours, theirs = tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=v.path)


@keras.saving.register_keras_serializable("tests")
class DoubledLogit(MLPGlobalBlock):
    """A block whose head is another than the one it inherits."""

    def head(self, context, meta_embedding, training=False):
        return 2.0 * super().head(context, meta_embedding, training)


def test_a_subclass_with_another_head_is_adapted_with_its_own():
    assert calls_per_task(MLPGlobalBlock((4,)))
    assert not calls_per_task(DoubledLogit((4,)))
    keras.utils.set_random_seed(1)
    block = DoubledLogit((4,))
    model = Vanilla(MLPMetaBlock((4,), 3), block)
    model.build({"meta": (None, META), "other": (None, OTHER)})
    start = model.network.initial_weights(SUPPORT["label"])
    features = {name: SUPPORT["features"][name] for name in ("meta", "other")}
    actual = model.network.call_adapted(start, features)
    rows = {name: tf.reshape(v, (-1, v.shape[-1])) for name, v in features.items()}
    np.testing.assert_allclose(tf.reshape(actual, [-1]), model.network(rows), rtol=1e-5, atol=1e-6)


def test_a_mapped_block_draws_new_dropout_masks_in_each_call():
    model = _built(EntireNetworkMAML(MLPMetaBlock((8,), 4), DCNGlobalBlock(dropout=0.5)))
    first, second = (
        model.outputs_of(model.adapt_tasks(SUPPORT, 0, True), QUERY, training=True)
        for _ in range(2)
    )
    assert not np.allclose(first, second)


class _CountsCalls(MLPGlobalBlock):
    """A block with a state of its own, which no task may write alone."""

    def build(self, features_shape, meta_embedding_shape):
        super().build(features_shape, meta_embedding_shape)
        self.calls = self.add_weight(name="calls", initializer="zeros", trainable=False)

    def head(self, context, meta_embedding, training=False):
        self.calls.assign_add(1.0)
        return super().head(context, meta_embedding, training)


def test_a_mapped_block_that_changes_its_state_is_refused(monkeypatch):
    model = _built(EntireNetworkMAML(MLPMetaBlock((8,), 4), _CountsCalls((8,))))
    monkeypatch.setattr(network, "calls_per_task", lambda block: False)
    with pytest.raises(ValueError, match=r"cannot be batched over tasks .*it updates .*calls"):
        model.outputs_of(model.adapt_tasks(SUPPORT, 0), QUERY)
