"""The task axis: ``[T, S, ...]`` to ``[T * S, ...]`` and back."""

from __future__ import annotations

import tensorflow as tf


def merge_axes(value: tf.Tensor) -> tf.Tensor:
    """Merges the first two axes."""
    static = value.shape
    if all(static[2:]):  # neither unknown nor 0
        return tf.reshape(value, [-1, *static[2:]])
    shape = tf.shape(value)
    result = tf.reshape(value, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    result.set_shape([None if None in static[:2] else static[0] * static[1], *static[2:]])
    return result


def split_axes(value: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Inverse of `merge_axes`: gives `value` the first two axes of `like`."""
    width = value.shape[1:] if value.shape[1:].is_fully_defined() else tf.shape(value)[1:]
    result = tf.reshape(value, tf.concat([tf.shape(like)[:2], width], 0))
    result.set_shape([*like.shape[:2], *value.shape[1:]])
    return result
