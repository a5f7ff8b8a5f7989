"""Refuses layers whose result for one task, or one row, depends on the others in the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.keras_internals import input_ranks, layers_within, operations_within

#: Number of tasks (or rows) of the check.
ENTRIES = 3
#: Standard deviation of what `varied` adds to weights.
NOISE = 0.3
_NOISY_ROWS = 1000
# Operations that join tensors along an axis.
_MERGING = {"Concatenate", "Stack"}


def suspects_within(layer: keras.layers.Layer, entry: str) -> list[Any]:
    """The parts of a built layer that may work along the first axis of a batch.

    Args:
        layer: A built layer.
        entry: What an entry of a batch is, ``"task"`` or ``"row"``. Parts with weights are applied
            task by task: they may mix the rows of a task, but not tasks.
    """
    ranks = input_ranks(layer)
    return [
        part
        for part in operations_within(layer)
        if _may_mix(part, entry == "row", ranks.get(id(part), 1))
    ]


def refuse_mixing(
    layer: keras.layers.Layer,
    suspects: list[Any],
    call: Callable[[Any], Any],
    values: Any,
    entry: str,
) -> None:
    """Raises `ValueError` if the result for one entry of a batch depends on the others.

    A layer that draws at random outside of training passes.

    Args:
        layer: A built layer.
        suspects: Its parts that may work along the first axis; the message names them.
        call: Maps values ``[N, ...]`` to the layer's outputs ``[N, ...]``.
        values: Its argument, a nest of tensors with ``N = ENTRIES``. If integers of it are out of
            range for an embedding, they are replaced by 0.
        entry: What an entry is, ``"task"`` or ``"row"``.
    """
    function = tf.function(call, autograph=False)
    try:
        mixes = _mixes(function, values)
    except tf.errors.InvalidArgumentError:  # an id is out of range
        zeros = tf.nest.map_structure(
            lambda value: tf.zeros_like(value) if value.dtype.is_integer else value, values
        )
        try:
            mixes = _mixes(function, zeros)
        except tf.errors.InvalidArgumentError:
            return
    if mixes:
        names = ", ".join(repr(part.name) for part in suspects)
        raise ValueError(
            f"layer {layer.name!r} mixes {entry}s: the result for a {entry} depends on the others "
            f"in the batch. One of its parts ({names}) reads all rows of the batch at once; let it "
            "work along other axes than the first"
        )


def _mixes(function: Any, values: Any) -> bool:
    """Whether results for all entries differ from those for each alone, and not at random."""

    def outputs(start: int, stop: int) -> list[Any]:
        part = tf.nest.map_structure(lambda value: value[start:stop], values)
        # Not `function(part)`: TensorFlow warns if calls trace many functions of one name.
        results = function.get_concrete_function(part)(part)
        return [tf.cast(o, tf.float32).numpy() for o in tf.nest.flatten(results)]

    def same(one: list[Any], other: list[Any]) -> bool:
        pairs = zip(one, other, strict=True)
        return all(a.shape == b.shape and np.allclose(a, b, 1e-2, 1e-3) for a, b in pairs)

    together = outputs(0, ENTRIES)
    alone = [outputs(i, i + 1) for i in range(ENTRIES)]
    joined = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    return not same(together, joined) and same(together, outputs(0, ENTRIES))


def drawn(values: Any) -> Any:
    """Tensors ``[ENTRIES, ...]`` with the shapes and types of `values`.

    Real numbers are in [0, 1). Integers, which may be ids, are 1, 2 and 0: a sort or a flip changes
    their order, also if they are limited to 1.
    """
    draw = np.random.default_rng(0)
    ids = np.roll(np.arange(ENTRIES), -1)

    def values_like(value: tf.Tensor) -> tf.Tensor:
        if value.dtype.is_integer:
            return tf.cast(
                np.broadcast_to(ids, (*value.shape[::-1], ENTRIES)).T.copy(), value.dtype
            )
        return tf.cast(draw.uniform(size=(ENTRIES, *value.shape)), value.dtype)

    return tf.nest.map_structure(values_like, values)


def varied(layer: keras.layers.Layer, entries: int | None = None) -> list[tf.Tensor]:
    """Values of the trainable variables with noise: a weight of 0 would hide what it multiplies.

    Of an embedding table, which may be large, only the first rows get noise.

    Args:
        layer: A built layer.
        entries: If given, values are ``[entries, *variable.shape]``, with noise for each entry.
    """
    draw = np.random.default_rng(1)
    tables = {
        id(variable)
        for part in layers_within(layer)
        if isinstance(part, keras.layers.Embedding)
        for variable in part.trainable_variables
    }

    def with_noise(variable: keras.Variable) -> tf.Tensor:
        value = tf.convert_to_tensor(variable)
        rows = _NOISY_ROWS if id(variable) in tables else None
        first = value[:rows] if rows else value
        shape = first.shape if entries is None else (entries, *first.shape)
        first += tf.cast(np.float32(NOISE) * draw.standard_normal(shape, np.float32), value.dtype)
        if not rows or rows >= value.shape[0]:
            return first
        others = value[rows:]
        if entries is None:
            return tf.concat([first, others], 0)
        return tf.concat([first, tf.repeat(others[None], entries, 0)], 1)

    return [with_noise(variable) for variable in layer.trainable_variables]


def _may_mix(part: Any, by_rows: bool, rank: int) -> bool:
    """Whether this is a part that may work along its first axis.

    Args:
        part: A layer, or another operation of Keras.
        by_rows: Whether parts with trainable weights are called on all entries of the batch.
        rank: The smallest rank of its inputs.
    """
    if not isinstance(part, keras.layers.Layer):  # an operation, such as those of `keras.ops`
        merges = _of_keras(part) and type(part).__name__ in _MERGING
        return not merges or _may_be_first(part.axis, rank)
    activation = getattr(part, "activation", None)
    if activation is not None and activation not in vars(keras.activations).values():
        return True  # functions of `keras.ops` may work along the first axis
    weights = bool(part.trainable_variables)
    if not _of_keras(part) or isinstance(part, keras.layers.Lambda):
        return by_rows or not weights
    return not weights and _may_be_first(getattr(part, "axis", ()), rank)


def _may_be_first(axis: Any, rank: int) -> bool:
    """Whether an axis, or one of several, is the first of a tensor of this rank; None is all."""
    if axis is None:
        return True
    axes = [axis] if isinstance(axis, int) else list(axis)
    return any(each == 0 or each <= -rank for each in axes)


def _of_keras(operation: Any) -> bool:
    """Whether the class of a layer, or of another operation, is of Keras."""
    return type(operation).__module__.startswith("keras.")
