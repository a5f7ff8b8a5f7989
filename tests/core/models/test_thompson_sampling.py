"""The example of Thompson sampling, on tasks with short and long histories."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import DotProductGlobalBlock, LiMAML, OffsetMetaBlock


@pytest.fixture(scope="module")
def example(checkout):
    path = checkout / "examples" / "thompson_sampling.py"
    spec = importlib.util.spec_from_file_location("thompson_sampling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _samples(rows, lengths, seed):
    random = np.random.default_rng(seed)
    shape = (len(lengths), rows)
    weight = np.arange(rows) < np.array(lengths)[:, None]
    return {
        "features": {
            "meta": tf.zeros((*shape, 2)),
            "other": tf.constant(random.normal(size=(*shape, 3)), tf.float32),
        },
        "label": tf.constant(random.random(shape) < 0.5, tf.float32),
        "weight": tf.constant(weight, tf.float32),
    }


def test_a_task_that_is_known_is_explored_less(example):
    keras.utils.set_random_seed(1)
    model = LiMAML(OffsetMetaBlock((4,), 5), DotProductGlobalBlock((8,)), inner_steps=2)
    model.build({"meta": (None, 2), "other": (None, 3)})
    for variable in model.global_block.projection_layer.trainable_variables:
        variable.assign(np.random.default_rng(2).normal(0, 0.7, variable.shape))
    lengths = [0] * 20 + [400] * 20
    batch = {"support": _samples(400, lengths, 1), "query": _samples(8, [8] * 40, 2)}
    found = example.explore(model, batch, draws=30)
    np.testing.assert_allclose(found["known"][:20], 0.0, atol=1e-5)
    assert (found["known"][20:] > 0.3).all()
    assert found["explored"][:20].mean() > 1.5 * found["explored"][20:].mean()
    assert found["history"].tolist() == lengths


def test_a_model_without_a_posterior_is_refused(example):
    model = LiMAML(OffsetMetaBlock((4,), 5), DotProductGlobalBlock((8,)), adaptation="gradient")
    model.build({"meta": (None, 2), "other": (None, 3)})
    batch = {"support": _samples(4, [4], 1), "query": _samples(4, [4], 2)}
    with pytest.raises(SystemExit, match="the model has no posterior"):
        example.explore(model, batch, draws=1)
