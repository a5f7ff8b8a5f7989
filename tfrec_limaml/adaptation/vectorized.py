"""Calls any Keras layer with a different set of weights for every task: `tf.vectorized_map`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.keras_internals import is_seed, training_argument


def vectorized(
    layer: keras.layers.Layer,
    weights: Sequence[tf.Tensor | None],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool,
) -> Any:
    """Calls `layer` once per task; random layers inside it draw one mask for all tasks.

    Args:
        layer: A built layer.
        weights: One tensor ``[T, *variable.shape]`` for each of ``layer.trainable_variables``; None
            where all tasks use the variable itself.
        args: Arguments; tensors ``[T, S, ...]``, or nests of them.
        kwargs: Further ones.
        training: Passed on to the layer.

    Raises:
        ValueError: The layer cannot be batched over tasks; the message names it.
    """
    state = layer.non_trainable_variables
    states = [tf.convert_to_tensor(v) for v in state]
    seeds = [i for i, v in enumerate(state) if is_seed(v)]
    shared = [tf.convert_to_tensor(v) for v in layer.trainable_variables]
    adapted = [i for i, weight in enumerate(weights) if weight is not None]
    # Tensors go through the map one task at a time; everything else is the same for all.
    flat = tf.nest.flatten((args, kwargs))
    positions = [i for i, value in enumerate(flat) if isinstance(value, tf.Tensor)]

    def one_task(values: Any) -> Any:
        task_weights = _replace(shared, adapted, values[0])
        task_values = _replace(flat, positions, values[1])
        task_args, task_kwargs = tf.nest.pack_sequence_as((args, kwargs), task_values)
        arguments = {**task_kwargs, **training_argument(layer, training)}
        outputs, new_state = layer.stateless_call(task_weights, states, *task_args, **arguments)
        changed = [new is not old for old, new in zip(states, new_state, strict=True)]
        if updated := [v.path for i, v in enumerate(state) if changed[i] and i not in seeds]:
            raise ValueError(f"it updates {updated[0]} from all rows, padding included")
        return outputs, [tf.identity(new_state[i]) for i in seeds]

    per_task = ([weights[i] for i in adapted], [flat[i] for i in positions])
    try:
        outputs, seed_states = tf.vectorized_map(one_task, per_task, fallback_to_while_loop=False)
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be batched over tasks "
            f"({_reason(error)}); {_remedy(error)}"
        ) from error
    for position, value in zip(seeds, seed_states, strict=True):
        state[position].assign(value[0])
    return outputs


def _replace(values: Sequence[Any], positions: Sequence[int], new: Sequence[Any]) -> list[Any]:
    replaced = list(values)
    for position, value in zip(positions, new, strict=True):
        replaced[position] = value
    return replaced


def _reason(error: Exception) -> str:
    """The line that says what is wrong; AutoGraph puts a traceback before it."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines[0].startswith("in user code") else lines[0]


def _remedy(error: Exception) -> str:
    if "Cudnn" in str(error):  # on a GPU Keras runs recurrent layers with it by default
        return "give the layer use_cudnn=False"
    return (
        "use layers that tf.vectorized_map supports (Dense, Embedding, LayerNormalization, "
        "attention, GRU and LSTM) in a meta block"
    )
