"""Applies a Keras layer with a different set of weights for every task.

Weights carry a task axis, ``[T, ...]``, inputs too, ``[T, S, ...]``. Known layers use batched products, which cost
what their arithmetic costs; every other layer goes through `tf.vectorized_map` over `Layer.stateless_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.features import merge_axes, split_axes

Weights = Sequence[tf.Tensor]


def apply_per_task(layer: keras.layers.Layer, weights: Weights, inputs: Any, training: bool = False) -> Any:
    """Calls `layer` once per task.

    Args:
        layer: A built layer.
        weights: One tensor ``[T, *variable.shape]`` for each of ``layer.trainable_variables``.
        inputs: Tensor (or nest) ``[T, S, ...]``.
        training: Passed on to the layer.

    Returns:
        The layer's output, ``[T, S, ...]``.

    Raises:
        ValueError: The layer cannot be batched over tasks; the message names it.
    """
    rule = _RULES.get(type(layer))
    if rule is not None:
        return rule(layer, weights, inputs, training)
    if not layer.trainable_variables and isinstance(inputs, tf.Tensor):
        return split_axes(_call(layer, merge_axes(inputs), training), inputs)
    return _vectorized(layer, weights, inputs, training)


def check_batchable(layer: keras.layers.Layer, inputs: Any) -> None:
    """Traces every leaf of a layer stack over two tasks; raises `ValueError` naming the first that cannot be batched."""
    weights = [tf.repeat(tf.convert_to_tensor(v)[None], 2, 0) for v in layer.trainable_variables]

    @tf.function
    def trace(values: Any) -> Any:
        return apply_per_task(layer, weights, values)

    trace.get_concrete_function(tf.nest.map_structure(lambda x: tf.repeat(x[None], 2, 0), inputs))


def _call(layer: keras.layers.Layer, inputs: Any, training: bool) -> Any:
    return layer(inputs, training=training) if layer._call_has_training_arg else layer(inputs)


def _dense(layer: keras.layers.Dense, weights: Weights, inputs: tf.Tensor, training: bool) -> tf.Tensor:
    kernel, *bias = (tf.cast(w, layer.compute_dtype) for w in weights)
    outputs = tf.matmul(tf.cast(inputs, layer.compute_dtype), kernel)
    if bias:
        outputs = outputs + bias[0][:, None]
    return layer.activation(outputs) if layer.activation is not None else outputs


def _layer_norm(layer: keras.layers.LayerNormalization, weights: Weights, inputs: tf.Tensor, training: bool) -> tf.Tensor:
    if list(layer.axis) not in ([-1], [1]) or inputs.shape.rank != 3:
        return _vectorized(layer, weights, inputs, training)
    inputs = tf.cast(inputs, layer.compute_dtype)
    mean, variance = tf.nn.moments(inputs, -1, keepdims=True)
    outputs = (inputs - mean) * tf.math.rsqrt(variance + layer.epsilon)
    remaining = [tf.cast(w, layer.compute_dtype)[:, None] for w in weights]
    if layer.scale:
        outputs = outputs * remaining.pop(0)
    return outputs + remaining.pop(0) if layer.center else outputs


def _embedding(layer: keras.layers.Embedding, weights: Weights, inputs: tf.Tensor, training: bool) -> tf.Tensor:
    return tf.gather(tf.cast(weights[0], layer.compute_dtype), tf.cast(inputs, tf.int32), batch_dims=1)


def _sequential(layer: keras.Sequential, weights: Weights, inputs: Any, training: bool) -> Any:
    position = 0
    for sub in layer.layers:
        count = len(sub.trainable_variables)
        inputs = apply_per_task(sub, weights[position : position + count], inputs, training)
        position += count
    return inputs


def _vectorized(layer: keras.layers.Layer, weights: Weights, inputs: Any, training: bool) -> Any:
    fixed = [tf.convert_to_tensor(v) for v in layer.non_trainable_variables]
    extra = {"training": training} if layer._call_has_training_arg else {}

    def one_task(pair: Any) -> Any:
        own, values = pair
        return layer.stateless_call(list(own), fixed, values, **extra)[0]

    try:
        return tf.vectorized_map(one_task, (tuple(weights), inputs), fallback_to_while_loop=False)
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be batched over tasks ({str(error).splitlines()[0]}); use layers that "
            "tf.vectorized_map supports (Dense, Embedding, LayerNormalization, attention, GRU/LSTM with unroll=True) in a meta block"
        ) from error


_RULES: dict[type, Callable[..., Any]] = {
    keras.layers.Dense: _dense,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Embedding: _embedding,
    keras.Sequential: _sequential,
}
