"""Refuses layers whose result for one task, or one row, depends on the others in the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.keras_internals import operations_within

#: Number of tasks (or rows) of the check.
ENTRIES = 3
#: Standard deviation of what `varied` adds to weights.
NOISE = 0.3


def refuse_mixing(
    layer: keras.layers.Layer, call: Callable[[Any], Any], values: Any, entry: str
) -> None:
    """Raises `ValueError` if the result for one entry of a batch depends on the others.

    That is so if a part without weights, or an activation, works along its first axis. A layer
    whose parts cannot do so is not called. A layer that draws at random outside of training passes.

    Args:
        layer: A built layer.
        call: Maps values ``[N, ...]`` to the layer's outputs ``[N, ...]``.
        values: Its argument, a nest of tensors with ``N = ENTRIES``.
        entry: What an entry is, ``"task"`` or ``"row"``.
    """
    suspects = [part for part in operations_within(layer) if _may_mix(part)]
    if not suspects:
        return
    function = tf.function(call, autograph=False)

    def outputs(start: int, stop: int) -> list[Any]:
        part = tf.nest.map_structure(lambda value: value[start:stop], values)
        return [tf.cast(o, tf.float32).numpy() for o in tf.nest.flatten(function(part))]

    def same(one: list[Any], other: list[Any]) -> bool:
        return all(np.allclose(a, b, 1e-2, 1e-3) for a, b in zip(one, other, strict=True))

    together = outputs(0, ENTRIES)
    alone = [outputs(i, i + 1) for i in range(ENTRIES)]
    joined = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    if not same(together, joined) and same(together, outputs(0, ENTRIES)):
        names = ", ".join(repr(part.name) for part in suspects)
        raise ValueError(
            f"layer {layer.name!r} mixes {entry}s: the result for a {entry} depends on the others "
            f"in the batch. One of its parts ({names}) reads all rows of the batch at once; let it "
            "work along other axes than the first"
        )


def drawn(values: Any, entries: int = ENTRIES) -> Any:
    """Tensors ``[entries, ...]`` of values in [0, 1) with the shapes and types of `values`.

    As integers they are 0, which is an id of every embedding.
    """
    draw = np.random.default_rng(0)
    return tf.nest.map_structure(
        lambda value: tf.cast(draw.uniform(size=(entries, *value.shape)), value.dtype), values
    )


def varied(weights: list[tf.Tensor]) -> list[tf.Tensor]:
    """Weights with noise: a weight of 0 would hide what is multiplied by it."""
    draw = np.random.default_rng(1)
    return [w + tf.cast(draw.normal(0, NOISE, w.shape), w.dtype) for w in weights]


def _may_mix(part: Any) -> bool:
    """Whether this is a part that may work along its first axis."""
    if not isinstance(part, keras.layers.Layer):
        return True  # an operation, such as those of `keras.ops`
    if not _of_keras(getattr(part, "activation", None)):
        return True
    own = not _of_keras(part) or isinstance(part, keras.layers.Lambda)
    return not part.trainable_variables and (own or hasattr(part, "axis"))


def _of_keras(value: Any) -> bool:
    """Whether a layer's class, or a function, is of Keras; true of None."""
    return value is None or str(getattr(value, "__module__", "")).startswith("keras.")
