"""Rows without padding, for layers whose weights all tasks share."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.axes import merge_axes, split_axes
from tfrec_limaml.features import Features


class RealRows:
    """The real rows among the rows ``[T, S]`` of tasks.

    With the weights ``[[1, 1, 0], [1, 0, 0]]``, `take` turns ``[[a, b, x], [c, y, z]]`` into
    ``[a, b, c]``, and `spread` turns that into ``[[a, b, b], [c, c, c]]``.

    Args:
        weight: Sample weights ``[T, S]``, 0 for padding. If all are 0, the first row counts as
            real: layers with batch statistics cannot do without rows.
        keep_padding: Whether padding counts as real. XLA needs this: it compiles static shapes.
    """

    def __init__(self, weight: tf.Tensor, keep_padding: bool = False) -> None:
        self._like, self._keeps_padding = weight, keep_padding
        if keep_padding:
            return
        real = tf.reshape(weight != 0, [-1])
        real |= ~tf.reduce_any(real) & (tf.range(tf.size(real)) == 0)
        self._is_real = real
        self._positions = tf.cast(tf.where(real)[:, 0], tf.int32)
        # Padding repeats the real row before it, so that its values are finite.
        self._places = tf.maximum(tf.cumsum(tf.cast(real, tf.int32)) - 1, 0)

    def take(self, value: tf.Tensor) -> tf.Tensor:
        """The real rows ``[N, ...]`` of ``[T, S, ...]``."""
        return self._take(merge_axes(value))

    def take_features(self, features: Features) -> dict[str, tf.Tensor]:
        """The real rows of every entry."""
        return {name: self.take(value) for name, value in features.items()}

    def spread(self, value: tf.Tensor) -> tf.Tensor:
        """``[T, S, ...]`` from values of the real rows ``[N, ...]``; padding repeats other rows.

        Gradients of padding are ignored, since its weight in every loss is 0.
        """
        return split_axes(self._spread(value), self._like)

    # The gradients are gathers too: those of `tf.gather` would add up rows one by one.

    def _take(self, rows: tf.Tensor) -> tf.Tensor:
        if self._keeps_padding:
            return rows
        return _with_gradient(lambda value: tf.gather(value, self._positions), self._put_back)(rows)

    def _spread(self, real_rows: tf.Tensor) -> tf.Tensor:
        if self._keeps_padding:
            return real_rows
        return _with_gradient(lambda value: tf.gather(value, self._places), self._take)(real_rows)

    def _put_back(self, real_rows: tf.Tensor) -> tf.Tensor:
        """All rows ``[T * S, ...]`` from the real ones, with zeros in padding."""
        rows = self._spread(real_rows)
        is_real = tf.reshape(self._is_real, [-1, *[1] * (rows.shape.rank - 1)])
        return tf.where(is_real, rows, tf.zeros_like(rows))


def _with_gradient(function: Any, gradient: Any) -> Any:
    """The function with this gradient with respect to its argument."""
    return tf.custom_gradient(lambda value: (function(value), gradient))
