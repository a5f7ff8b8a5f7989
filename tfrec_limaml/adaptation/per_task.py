"""Applies a Keras layer with a different set of weights for every task.

Weights ``[T, ...]`` and inputs ``[T, S, ...]`` both have a task axis. Known layers use
batched products, without overhead; layers without weights are called once on all rows of all tasks;
`keras.Sequential` and functional models are applied layer by layer; all other layers go through
`tf.vectorized_map` over `Layer.stateless_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.axes import merge_axes, split_axes
from tfrec_limaml.adaptation.inner_weights import (
    DualKernel,
    LowRankKernel,
    SharedWeight,
    shared_bias,
    shared_product,
    with_task_axis,
)
from tfrec_limaml.adaptation.mixing import ENTRIES, drawn, refuse_mixing, suspects_within, varied
from tfrec_limaml.adaptation.vectorized import vectorized
from tfrec_limaml.keras_internals import (
    Functional,
    is_seed,
    layers_within,
    run_graph,
    training_argument,
)

Weights = Sequence[Any]  # tensors with a task axis, or the cheaper forms of `inner_weights`


def apply_per_task(
    layer: keras.layers.Layer, weights: Weights, inputs: Any, training: bool = False
) -> Any:
    """Calls `layer` once per task.

    Random layers, such as dropout, draw values for each row. Inside a layer that goes through
    `tf.vectorized_map`, they draw one mask for all tasks. Keras masks (``mask_zero=True``) are not
    passed on.

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
    return _apply(layer, weights, (inputs,), {}, training)


def check_batchable(layer: keras.layers.Layer, inputs: Any) -> None:
    """Traces a built layer over two tasks, to check that `apply_per_task` can call it.

    Args:
        layer: A built layer.
        inputs: One task's input ``[S, ...]``, a tensor or a nest.

    Raises:
        ValueError: A part of the layer cannot be batched over tasks, adds a loss, or has no weights
            and mixes the tasks; the message names the part.
    """
    with tf.init_scope():
        _refuse_losses(layer, inputs)
        weights = [
            tf.repeat(tf.convert_to_tensor(v)[None], 2, 0) for v in layer.trainable_variables
        ]
        values = tf.nest.map_structure(lambda x: tf.repeat(x[None], 2, 0), inputs)
        tf.function(
            lambda x: apply_per_task(layer, weights, x, training=True), autograph=False
        ).get_concrete_function(values)
        if suspects := suspects_within(layer, "task"):
            tasks = [varied(layer, ENTRIES), drawn(inputs)]
            refuse_mixing(layer, suspects, lambda x: apply_per_task(layer, *x), tasks, "task")


def _refuse_losses(layer: keras.layers.Layer, inputs: Any) -> None:
    """Raises `ValueError` if a call of the layer adds a loss.

    Calls with per-task weights would lose it.
    """
    with keras.StatelessScope(collect_losses=True) as scope:
        layer(inputs, **training_argument(layer, True))
    if scope.losses:
        regularised = [part for part in layers_within(layer) if part.activity_regularizer]
        raise ValueError(
            f"layer {(regularised or [layer])[0].name!r} adds a loss to the objective "
            "(activity_regularizer or add_loss), which is not possible under per-task weights; "
            "regularise its weights instead (kernel_regularizer)"
        )


def _apply(
    operation: Any, weights: Weights, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool
) -> Any:
    if not weights and _keeps_no_state(operation):
        return _all_rows(operation, args, kwargs, training)
    rule = _rule(operation)
    if rule not in (_dense, _sequential, _functional):
        weights = [with_task_axis(w) for w in weights]
    if rule is not None and len(args) == 1 and not kwargs:
        return rule(operation, weights, args[0], training)
    return vectorized(operation, weights, args, kwargs, training)


def _rule(operation: Any) -> Callable[..., Any] | None:
    """The function for this kind of layer, or None.

    A function for a single layer needs all of its weights: None if some are frozen, or replaced by
    others, as with LoRA.
    """
    rule = _RULES.get(type(operation))
    whole = rule in (_sequential, _functional) or rule is None or trains_all(operation)
    return rule if whole else None


def trains_all(layer: keras.layers.Layer) -> bool:
    """Whether all weights of a layer are trainable."""
    return len(layer.trainable_variables) == len(layer.weights)


def _all_rows(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    """One call on the rows of all tasks, for operations without weights."""
    tensors = [value for value in tf.nest.flatten((args, kwargs)) if isinstance(value, tf.Tensor)]
    args, kwargs = tf.nest.map_structure(
        lambda value: merge_axes(value) if isinstance(value, tf.Tensor) else value, (args, kwargs)
    )
    outputs = operation(*args, **{**kwargs, **training_argument(operation, training)})
    try:
        return tf.nest.map_structure(lambda value: split_axes(value, tensors[0]), outputs)
    except ValueError as error:  # the shapes are known when a layer is checked
        shapes = [tuple(value.shape) for value in tf.nest.flatten(outputs)]
        raise ValueError(
            f"layer {operation.name!r} ({type(operation).__name__}) cannot be batched over tasks: "
            f"it must map rows to as many rows, and gave the shapes {shapes}; let it reduce over "
            "other axes than the first"
        ) from error


def _dense(
    layer: keras.layers.Dense, weights: Weights, inputs: tf.Tensor, training: bool
) -> tf.Tensor:
    if inputs.shape.rank != 3:
        return vectorized(layer, [with_task_axis(w) for w in weights], (inputs,), {}, training)
    inputs = tf.cast(inputs, layer.compute_dtype)
    kernel, *bias = weights
    if isinstance(kernel, DualKernel | LowRankKernel) and kernel.value.dtype == inputs.dtype:
        outputs = kernel.product(inputs)
    elif isinstance(kernel, SharedWeight) and kernel.value.dtype == inputs.dtype:
        outputs = shared_product(inputs, kernel)
    else:
        outputs = tf.matmul(inputs, tf.cast(with_task_axis(kernel), inputs.dtype))
    if bias and isinstance(bias[0], SharedWeight) and bias[0].value.dtype == inputs.dtype:
        outputs = shared_bias(outputs, bias[0])
    elif bias:
        outputs = outputs + tf.cast(with_task_axis(bias[0]), inputs.dtype)[:, None]
    return layer.activation(outputs) if layer.activation is not None else outputs


def _layer_norm(
    layer: keras.layers.LayerNormalization, weights: Weights, inputs: tf.Tensor, training: bool
) -> tf.Tensor:
    if layer.rms_scaling or list(layer.axis) not in ([-1], [1]) or inputs.shape.rank != 3:
        return vectorized(layer, weights, (inputs,), {}, training)
    dtype = (
        "float64" if layer.compute_dtype == "float64" else "float32"
    )  # as Keras does: statistics of half-precision values lose digits
    inputs = tf.cast(inputs, dtype)
    # Not tf.nn.moments: it treats the mean within the variance as a constant, which is correct only
    # for first derivatives.
    centred = inputs - tf.reduce_mean(inputs, -1, keepdims=True)
    outputs = centred * tf.math.rsqrt(
        tf.reduce_mean(tf.square(centred), -1, keepdims=True) + layer.epsilon
    )
    remaining = [tf.cast(w, dtype) for w in weights]
    if layer.scale:
        outputs = outputs * remaining.pop(0)[:, None]
    if layer.center:
        outputs = outputs + remaining.pop(0)[:, None]
    return tf.cast(outputs, layer.compute_dtype)


def _embedding(
    layer: keras.layers.Embedding, weights: Weights, inputs: tf.Tensor, training: bool
) -> tf.Tensor:
    return tf.gather(
        tf.cast(weights[0], layer.compute_dtype), tf.cast(inputs, tf.int32), batch_dims=1
    )


def _sequential(layer: keras.Sequential, weights: Weights, inputs: Any, training: bool) -> Any:
    by_variable = _weights_by_variable(layer, weights)
    for sub in layer.layers:
        inputs = _apply(
            sub, [by_variable[id(v)] for v in sub.trainable_variables], (inputs,), {}, training
        )
    return inputs


def _functional(model: Functional, weights: Weights, inputs: Any, training: bool) -> Any:
    by_variable = _weights_by_variable(model, weights)

    def per_task(operation: Any) -> Callable[..., Any]:
        variables = (
            operation.trainable_variables if isinstance(operation, keras.layers.Layer) else []
        )
        operation_weights = [by_variable[id(v)] for v in variables]
        # The graph has these from when the model was built; the caller's values are used.
        excluded = ("training", "mask")
        return lambda *args, **kwargs: _apply(
            operation,
            operation_weights,
            args,
            {k: v for k, v in kwargs.items() if k not in excluded},
            training,
        )

    return run_graph(model, tf.nest.flatten(inputs), per_task)


def _weights_by_variable(layer: keras.layers.Layer, weights: Weights) -> dict[int, tf.Tensor]:
    return {id(v): w for v, w in zip(layer.trainable_variables, weights, strict=True)}


def _keeps_no_state(operation: Any) -> bool:
    """Whether a call changes no variables except random seeds: it is frozen, or has no others."""
    return (
        not isinstance(operation, keras.layers.Layer)
        or not operation.trainable
        or all(is_seed(v) for v in operation.variables)
    )


_RULES: dict[type, Callable[..., Any]] = {
    keras.layers.Dense: _dense,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Embedding: _embedding,
    keras.Sequential: _sequential,
    Functional: _functional,
}
