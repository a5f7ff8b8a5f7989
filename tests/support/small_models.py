"""Small models and batches of tasks, for tests of Keras' loops."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.adaptation.axes import merge_axes


def task_batch(rng, tasks=8, support=4, query=3):
    def samples(size):
        return {
            "features": {
                "meta": rng.normal(size=(tasks, size, 3)).astype("f"),
                "other": rng.normal(size=(tasks, size, 2)).astype("f"),
            },
            "label": (rng.random((tasks, size)) < 0.5).astype("f"),
            "weight": (rng.random((tasks, size)) < 0.8).astype("f"),
        }

    return {"support": samples(support), "query": samples(query)}


def task_batches(seed=0, batches=3, **sizes):
    rng = np.random.default_rng(seed)
    stacked = tf.nest.map_structure(
        lambda *x: np.stack(x), *[task_batch(rng, **sizes) for _ in range(batches)]
    )
    return tf.data.Dataset.from_tensor_slices(stacked)


def small_model(cls=LiMAML, traced=False, **kwargs):
    """A small compiled model; it builds graphs only if `traced`.

    A few steps are faster without graphs, which take longer to build.
    """
    keras.utils.set_random_seed(5)
    model = cls(MLPMetaBlock((4,), 2), MLPGlobalBlock((5,)), inner_learning_rate=0.5, **kwargs)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=not traced)
    return model


def flatten_tasks(features):
    """``[T, S, ...]`` to ``[T * S, ...]`` for every entry."""
    return {name: merge_axes(value) for name, value in features.items()}
