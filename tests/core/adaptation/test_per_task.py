"""Layers under per-task weights against the layer itself, called task by task."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec_limaml.adaptation.per_task import apply_per_task, check_batchable

pytestmark = pytest.mark.usefixtures("optimised_graphs")

L = keras.layers
T, S, F = 3, 4, 6


def _functional():
    inputs = keras.Input((F,), dtype=L.Layer().compute_dtype)
    hidden = L.Dense(5, "tanh")(inputs)
    shared = L.Dense(5)
    outputs = L.Concatenate()([shared(hidden), shared(hidden * 2.0), L.Dropout(0.5)(hidden)])
    return keras.Model(inputs, L.LayerNormalization()(outputs))


def _attention():
    inputs = keras.Input((F,), dtype=L.Layer().compute_dtype)
    rows = L.Reshape((3, 2))(inputs)
    return keras.Model(inputs, L.Flatten()(L.MultiHeadAttention(2, 2)(query=rows, value=rows)))


LAYERS = {
    "dense": lambda: L.Dense(5, "relu"),
    "dense without bias": lambda: L.Dense(5, use_bias=False),
    "layer norm": lambda: L.LayerNormalization(),
    "layer norm without center": lambda: L.LayerNormalization(center=False),
    "layer norm without scale": lambda: L.LayerNormalization(scale=False),
    "layer norm without mean": lambda: L.LayerNormalization(rms_scaling=True),
    "group norm": lambda: L.GroupNormalization(2),
    "prelu": lambda: L.PReLU(),
    "activation": lambda: L.Activation("gelu"),
    "dropout": lambda: L.Dropout(0.5),
    "sequential": lambda: keras.Sequential(
        [L.Dense(4, "tanh"), L.Dropout(0.5), keras.Sequential([L.LayerNormalization(), L.Dense(3)])]
    ),
    "dense on vectors of vectors": lambda: keras.Sequential(
        [L.Reshape((3, 2)), L.Dense(4), L.LayerNormalization(), L.Flatten()]
    ),
    "frozen first layer": lambda: keras.Sequential([L.Dense(4, trainable=False), L.Dense(3)]),
    "functional": _functional,
    "attention": _attention,
    "unrolled gru": lambda: keras.Sequential([L.Reshape((3, 2)), L.GRU(4, unroll=True)]),
    "gru": lambda: keras.Sequential([L.Reshape((3, 2)), L.GRU(4)]),
}


def _weights(layer, rng):
    return [tf.constant(rng.normal(size=(T, *v.shape)), v.dtype) for v in layer.trainable_variables]


def _one_by_one(layer, weights, inputs):
    fixed = [tf.convert_to_tensor(v) for v in layer.non_trainable_variables]
    return tf.stack(
        [layer.stateless_call([w[t] for w in weights], fixed, inputs[t])[0] for t in range(T)]
    )


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`, which is deprecated")
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"gru"}))
def test_all_tasks_at_once_equal_the_layer_task_by_task(name):
    rng = np.random.default_rng(0)
    with _policy("float64"):
        layer = LAYERS[name]()
    layer.build((None, F))
    weights, inputs = _weights(layer, rng), tf.constant(rng.normal(size=(T, S, F)))
    np.testing.assert_allclose(
        apply_per_task(layer, weights, inputs),
        _one_by_one(layer, weights, inputs),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("make", "frozen"),
    [
        (lambda: L.Dense(4), "kernel"),
        (lambda: L.Dense(4), "bias"),
        (lambda: L.Dense(4), None),
        (lambda: L.LayerNormalization(), "gamma"),
        (lambda: L.LayerNormalization(), "beta"),
    ],
)
def test_single_weights_of_a_layer_may_be_frozen_or_of_low_rank(make, frozen):
    with _policy("float64"):
        layer = make()
    layer.build((None, F))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=v.shape) for v in layer.weights])
    if frozen is None:
        layer.enable_lora(2)
    else:
        getattr(layer, frozen).trainable = False
    weights, inputs = _weights(layer, rng), tf.constant(rng.normal(size=(T, S, F)))
    np.testing.assert_allclose(
        apply_per_task(layer, weights, inputs), _one_by_one(layer, weights, inputs), rtol=1e-9
    )


def test_embeddings_are_looked_up_in_each_task_s_table():
    layer = L.Embedding(5, 2)
    layer.build((None,))
    rng = np.random.default_rng(1)
    weights, ids = _weights(layer, rng), tf.constant(rng.integers(0, 5, (T, S)))
    np.testing.assert_allclose(
        apply_per_task(layer, weights, ids), _one_by_one(layer, weights, ids)
    )


@settings(max_examples=10)
@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([1e-3, 1e-6]), st.integers(0, 2**31))
def test_layer_norm_equals_keras_at_any_scale(scale, offset, epsilon, seed):
    layer = L.LayerNormalization(epsilon=epsilon)
    layer.build((None, F))
    rng = np.random.default_rng(seed)
    inputs = tf.constant((rng.normal(size=(T, S, F)) * 10**scale + 10**offset).astype("float32"))
    weights = _weights(layer, rng)
    np.testing.assert_allclose(
        apply_per_task(layer, weights, inputs),
        _one_by_one(layer, weights, inputs),
        rtol=2e-3,
        atol=2e-3,
    )


def test_layer_norm_in_half_precision_keeps_float32_statistics():
    layer = L.LayerNormalization(dtype="mixed_bfloat16")
    layer.build((None, F))
    rng = np.random.default_rng(2)
    inputs = tf.constant(rng.normal(size=(T, S, F)) + 20, tf.bfloat16)
    weights = _weights(layer, rng)
    actual = apply_per_task(layer, weights, inputs)
    assert actual.dtype == tf.bfloat16
    np.testing.assert_allclose(  # within two units in the last place of bfloat16
        tf.cast(actual, tf.float32),
        tf.cast(_one_by_one(layer, weights, inputs), tf.float32),
        rtol=2**-6,
        atol=2**-6,
    )


@pytest.mark.parametrize("nested", [False, True])
def test_dropout_drops_in_training_alone_and_draws_anew_each_time(nested):
    layer = L.Dropout(0.5, seed=1)
    if nested:
        inputs = keras.Input((F,))
        layer = keras.Model(inputs, L.Dropout(0.5, seed=1)(inputs))
    ones = tf.ones([T, S, F])
    np.testing.assert_array_equal(apply_per_task(layer, [], ones), ones)
    first, second = (apply_per_task(layer, [], ones, training=True).numpy() for _ in range(2))
    assert set(np.unique(first)) == {0.0, 2.0}
    assert (first != second).any()
    assert (first[0] != first[1]).any(), "tasks draw their own masks"


def test_random_layers_inside_a_vectorized_one_draw_anew_each_time():
    layer = L.MultiHeadAttention(1, 4, dropout=0.5, seed=1)
    rows = tf.random.stateless_normal([T, 1, 5, F], [1, 2])
    layer.build((None, 5, F), (None, 5, F))
    rng = np.random.default_rng(3)
    inputs = keras.Input((5, F))
    model = keras.Model(inputs, layer(inputs, inputs))
    weights = _weights(model, rng)
    first, second = (apply_per_task(model, weights, rows, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (lambda: keras.Sequential([L.Reshape((3, 2)), L.Conv1D(4, 2, name="bad")]), "Conv1D"),
        (
            lambda: keras.Sequential([L.Dense(4), L.BatchNormalization(name="bad")]),
            "BatchNormalization",
        ),
        (
            lambda: keras.Sequential(
                [L.Dense(4), keras.Sequential([L.Reshape((2, 2)), L.Conv1D(4, 2, name="bad")])]
            ),
            "Conv1D",
        ),
    ],
)
@pytest.mark.parametrize("functional", [False, True])
def test_a_layer_that_cannot_be_batched_is_named(bad, kind, functional):
    layer = bad()
    if functional:
        inputs = keras.Input((F,))
        layer = keras.Model(inputs, layer(inputs))
    layer.build((None, F))
    with pytest.raises(ValueError, match=rf"^layer 'bad' \({kind}\) cannot be batched over tasks"):
        check_batchable(layer, tf.zeros((2, F)))


def test_a_recurrent_layer_of_a_gpu_is_told_to_do_without_cudnn(monkeypatch):
    """Keras chooses cuDNN where TensorFlow sees a GPU."""

    def refuse(*args, **kwargs):
        raise ValueError("No pfor vectorization defined for CudnnRNNV3")

    layer = LAYERS["gru"]()
    layer.build((None, F))
    monkeypatch.setattr(tf, "vectorized_map", refuse)
    with pytest.raises(ValueError, match=r"CudnnRNNV3\); give the layer use_cudnn=False$"):
        check_batchable(layer, tf.zeros((2, F)))


@pytest.mark.parametrize("name", ["functional", "attention", "gru"])
def test_what_can_be_batched_passes_the_check(name):
    layer = LAYERS[name]()
    layer.build((None, F))
    check_batchable(layer, tf.zeros((2, F)))


class _policy:
    """Sets Keras' float type for a while."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *error):
        keras.config.set_dtype_policy(self.before)
