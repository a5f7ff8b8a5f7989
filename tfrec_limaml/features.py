"""Encoded features: the dictionary of tensors that every block reads.

`FeatureEncoder` turns raw columns into ``{"meta": float [..., F_m], "other": float [..., F_o]}`` plus one entry for each
feature that asks for an embedding: int32 ids ``[...]``, or, for multi-valued ones, a float multi-hot ``[..., V]``; and one for each
nested task definition, see `subtask_feature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

META = "meta"
OTHER = "other"

Features = Mapping[str, tf.Tensor]


@keras.saving.register_keras_serializable("tfrec_limaml")
class FeatureEmbeddings(keras.layers.Layer):
    """Concatenates dense inputs with the embeddings of categorical ones.

    Args:
        dense: Keys of dense inputs, concatenated first, in this order.
        embeddings: Feature name to ``(number of ids, width)``.
        embeddings_regularizer: Keras regularizer of every table.
        embeddings_initializer: Keras initializer of every table.

    Input: encoded features with leading axes ``[...]``; output: ``[..., F]`` in the compute dtype.
    """

    def __init__(
        self,
        dense: tuple[str, ...] = (META, OTHER),
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        embeddings_regularizer: Any = None,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dense = tuple(dense)
        self.embeddings = {name: (int(size), int(width)) for name, (size, width) in (embeddings or {}).items()}
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Creates one table per embedded feature; raises `ValueError` naming inputs that are missing."""
        missing = sorted({*self.dense, *self.embeddings} - set(input_shape))
        if missing:
            raise ValueError(f"{self.name}: the features lack {missing}; received {sorted(input_shape)}")
        self.tables = {
            name: self.add_weight(
                name=f"{name}_embedding",
                shape=size,
                initializer=self.embeddings_initializer.clone(),
                regularizer=self.embeddings_regularizer,
            )
            for name, size in self.embeddings.items()
        }
        self.built = True

    def call(self, features: Features) -> tf.Tensor:
        """Concatenates; see the class."""
        parts = [tf.cast(features[key], self.compute_dtype) for key in self.dense]
        for name, table in self.tables.items():
            table = tf.cast(tf.convert_to_tensor(table), self.compute_dtype)
            value = features[name]
            parts.append(tf.gather(table, value) if value.dtype.is_integer else tf.matmul(tf.cast(value, self.compute_dtype), table))
        return parts[0] if len(parts) == 1 else tf.concat(parts, -1)

    def compute_output_shape(self, input_shape: Mapping[str, tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """``[..., F]``."""
        leading = tuple(input_shape[self.dense[0]])[:-1] if self.dense else tuple(input_shape[next(iter(self.embeddings))])
        width = sum(int(input_shape[key][-1] or 0) for key in self.dense)
        return (*leading, width + sum(width for _, width in self.embeddings.values()))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "dense": self.dense,
            "embeddings": self.embeddings,
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


def subtask_feature(definition: str) -> str:
    """Name of the encoded feature, int64 ``[N]``, that is equal for rows of one task which also share the key of `definition`."""
    return f"subtask:{definition}"


def flatten_tasks(features: Features) -> dict[str, tf.Tensor]:
    """``[T, S, ...]`` to ``[T * S, ...]`` for every entry."""
    return {name: merge_axes(value) for name, value in features.items()}


def merge_axes(value: tf.Tensor) -> tf.Tensor:
    """Merges the first two axes."""
    shape = tf.shape(value)
    merged = tf.reshape(value, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    static = value.shape
    merged.set_shape([None if None in static[:2] else static[0] * static[1], *static[2:]])
    return merged


def split_axes(value: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Inverse of `merge_axes`: gives `value` the first two axes of `like`."""
    shape = tf.shape(like)
    split = tf.reshape(value, tf.concat([shape[:2], tf.shape(value)[1:]], 0))
    split.set_shape([*like.shape[:2], *value.shape[1:]])
    return split
