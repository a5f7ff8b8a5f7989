"""Concatenates dense features with the embeddings of categorical ones."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.features import META, OTHER, Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class FeatureEmbeddings(keras.layers.Layer):
    """Concatenates dense inputs with the embeddings of categorical ones.

    Without any input the result is one column of zeros: a network behind it gives a constant.

    Args:
        dense: Keys of dense inputs, concatenated first, in this order.
        embeddings: Feature name to ``(number of ids, width)``.
        embeddings_regularizer: Keras regularizer of all tables.
        embeddings_initializer: Keras initializer of all tables.
        embeddings_scales: Feature name to one factor for each of its ids, by which the id's
            embedding is multiplied; see `tfrec_limaml.training.block_catalogue.shrinkage`. A small
            factor makes an id learn slowly.

    Input: encoded features with leading axes ``[...]``; output: ``[..., F]`` in the compute dtype.
    """

    def __init__(
        self,
        dense: tuple[str, ...] = (META, OTHER),
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        embeddings_regularizer: Any = None,
        embeddings_initializer: Any = "uniform",
        embeddings_scales: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dense = tuple(dense)
        self.embeddings = {
            name: (int(size), int(width)) for name, (size, width) in (embeddings or {}).items()
        }
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_scales = {
            name: [float(scale) for scale in scales]
            for name, scales in (embeddings_scales or {}).items()
            if name in self.embeddings
        }
        for name, scales in self.embeddings_scales.items():
            if len(scales) != self.embeddings[name][0]:
                raise ValueError(
                    f"embeddings_scales of {name!r} needs {self.embeddings[name][0]} factors, "
                    f"received {len(scales)}"
                )

    def build(self, input_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Creates one table per embedded feature; raises `ValueError` if inputs are missing."""
        missing = sorted({*self.dense, *self.embeddings} - set(input_shape))
        if missing:
            raise ValueError(
                f"{self.name}: the features lack {missing}; received {sorted(input_shape)}"
            )
        self.tables = {
            name: self.add_weight(
                # A column's name may have a slash, a variable's may not.
                name=f"{name}_embedding".replace("/", "_"),
                shape=size,
                initializer=self.embeddings_initializer.clone(),
                regularizer=self.embeddings_regularizer,
            )
            for name, size in self.embeddings.items()
        }
        self.built = True

    def call(self, features: Features) -> tf.Tensor:
        """The concatenated inputs ``[..., F]``."""
        parts = list(self._parts(features).values())
        values = parts[0] if len(parts) == 1 else tf.concat(parts, -1)
        return values if values.shape[-1] else tf.zeros_like(tf.reduce_sum(values, -1))[..., None]

    def product(self, features: Features, kernel: tf.Tensor, once: Collection[str]) -> tf.Tensor:
        """``call(features) @ kernel``, ``[N, units]``.

        A feature may have one row that applies to all rows: its share is computed once.

        Args:
            features: Encoded features of ``N`` rows; those in `once` may have one row.
            kernel: ``[F, units]``.
            once: Names of the features that may have one row.
        """
        total, start = None, 0
        parts = self._parts(features).items()
        for _, group in itertools.groupby(parts, lambda part: part[0] in once):
            values = [value for _, value in group]
            inputs = values[0] if len(values) == 1 else tf.concat(values, -1)
            width = inputs.shape[-1]
            if width:
                share = tf.matmul(inputs, kernel[start : start + width])
                total = share if total is None else total + share
            start += width
        return tf.zeros((1, kernel.shape[1]), kernel.dtype) if total is None else total

    def _parts(self, features: Features) -> dict[str, tf.Tensor]:
        """The tensors to concatenate, by the feature's name."""
        parts = {key: tf.cast(features[key], self.compute_dtype) for key in self.dense}
        for name, table in self.tables.items():
            table = tf.cast(tf.convert_to_tensor(table), self.compute_dtype)
            value = features[name]
            scales = self.embeddings_scales.get(name)
            factors = None if scales is None else tf.constant(scales, self.compute_dtype)
            if value.dtype.is_integer:
                vectors = tf.gather(table, value)
                if factors is not None:
                    vectors = vectors * tf.gather(factors, value)[..., None]
            else:
                hot = tf.cast(value, self.compute_dtype)
                vectors = tf.matmul(hot if factors is None else hot * factors, table)
            parts[name] = vectors
        return parts

    def compute_output_shape(
        self, input_shape: Mapping[str, tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """``[..., F]``."""
        leading = (
            tuple(input_shape[self.dense[0]])[:-1]
            if self.dense
            else tuple(input_shape[next(iter(self.embeddings))])
        )
        width = sum(int(input_shape[key][-1] or 0) for key in self.dense)
        width += sum(width for _, width in self.embeddings.values())
        return (*leading, max(width, 1))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "dense": self.dense,
            "embeddings": self.embeddings,
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_scales": self.embeddings_scales,
        }
