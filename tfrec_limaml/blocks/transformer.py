"""A meta block that reads the task's sequence of interactions: the paper's future work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.blocks.mlp import MLPMetaBlock


@keras.saving.register_keras_serializable("tfrec_limaml")
class TransformerMetaBlock(MLPMetaBlock):
    """`MLPMetaBlock` that also reads the task's support interactions, by attention.

    The transformer reads the meta features and labels of the interactions. Its weights are shared
    and trained by the outer loop; the inner loop adapts the MLP on top. Attention therefore runs
    once per batch, not in every inner step. A support row sees only strictly earlier rows, and
    never its own label; query rows, and the rows whose embeddings are stored, see the whole support
    set. Without a support set, and in the un-adapted model, a row sees only a learned empty memory.

    Source of the layers: Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762.

    Examples:
        >>> block = TransformerMetaBlock((128,), embedding_dim=32, width=32, heads=2)

    Args:
        hidden_units: Widths of the adapted MLP's hidden layers.
        embedding_dim: Width ``D`` of the meta embedding.
        width: Width ``W`` of the attention, a multiple of `heads`.
        heads: Number of attention heads.
        memory_layers: Number of transformer layers over the interactions; may be 0.
        **kwargs: See `MLPMetaBlock`.

    Raises:
        ValueError: `width` is not a positive multiple of `heads`, or `memory_layers` is negative.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128,),
        embedding_dim: int = 32,
        width: int = 32,
        heads: int = 2,
        memory_layers: int = 1,
        **kwargs: Any,
    ) -> None:
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(
                f"width must be a positive multiple of heads, received width={width}, heads={heads}"
            )
        if memory_layers < 0:
            raise ValueError(f"memory_layers must be at least 0, received {memory_layers}")
        super().__init__(hidden_units, embedding_dim, **kwargs)
        self.width, self.heads = int(width), int(heads)
        policy = self.dtype_policy
        self.token_layer = keras.layers.Dense(self.width, dtype=policy, name="token")
        self.memory_layers = [
            MemoryLayer(self.width, self.heads, dtype=policy, name=f"memory_{i}")
            for i in range(memory_layers)
        ]
        self.query_layer = keras.layers.Dense(self.width, dtype=policy, name="query")
        self.reader = _attention(self.width, self.heads, policy, "reader")

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds all layers and creates the empty memory."""
        self.inputs_layer.build(features_shape)
        inputs = int(self.inputs_layer.compute_output_shape(features_shape)[-1] or 0)
        tokens = (None, None, self.width)
        self.empty = self.add_weight(
            name="empty_memory", shape=(1, 1, self.width), initializer="uniform"
        )
        self.token_layer.build((None, None, inputs + 1))
        for layer in self.memory_layers:
            layer.build(tokens)
        self.query_layer.build((None, None, inputs))
        self.reader.build(tokens, tokens)
        self.network.build((None, inputs + self.width))
        self.built = True

    def encode_support(
        self, encoded: tf.Tensor, label: tf.Tensor, weight: tf.Tensor
    ) -> list[tf.Tensor]:
        """The memory: tokens ``[T, S, W]`` of the support rows, and which rows are real ``[T, S]``.

        Each token is computed from the rows up to its own.
        """
        tokens = self.token_layer(
            tf.concat([encoded, tf.cast(label, encoded.dtype)[..., None]], -1)
        )
        rows, real = tf.shape(tokens)[1], weight > 0
        tokens = tokens + tf.cast(_positions(rows, self.width), tokens.dtype)
        mask = _before_all(
            real[:, None] & tf.linalg.band_part(tf.ones([rows, rows], tf.bool), -1, 0)
        )
        for layer in self.memory_layers:
            tokens = layer(tokens, self._empty(tokens), mask)
        return [tokens, real]

    def read_support(self, encoded: tf.Tensor, memory: Sequence[Any], causal: bool) -> tf.Tensor:
        """Rows ``[T, N, F]`` with their attention over the memory, ``[T, N, F + W]``.

        See `MetaBlock.read_support`.
        """
        query = self.query_layer(encoded)
        keys, rows = self._empty(query), tf.shape(query)[1]
        mask = tf.ones([tf.shape(query)[0], rows, 1], tf.bool)
        if memory:
            tokens, real = memory
            keys = tf.concat([keys, tokens], 1)
            seen = (
                ~tf.linalg.band_part(tf.ones([rows, rows], tf.bool), 0, -1)
                if causal
                else tf.ones([rows, 1], tf.bool)
            )
            mask = _before_all(real[:, None] & seen)
        return tf.concat([encoded, self.reader(query=query, value=keys, attention_mask=mask)], -1)

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Un-adapted embeddings ``[N, D]`` of encoded rows ``[N, F]``.

        The rows read the empty memory.
        """
        return self.network(
            self.read_support(encoded[:, None], [], causal=False)[:, 0], training=training
        )

    def _empty(self, like: tf.Tensor) -> tf.Tensor:
        return tf.repeat(
            tf.cast(tf.convert_to_tensor(self.empty), like.dtype), tf.shape(like)[0], 0
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "width": self.width,
            "heads": self.heads,
            "memory_layers": len(self.memory_layers),
        }


@keras.saving.register_keras_serializable("tfrec_limaml")
class MemoryLayer(keras.layers.Layer):
    """One transformer layer over the empty memory and a task's interactions.

    Args:
        width: Width ``W`` of the tokens.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        policy = self.dtype_policy
        self.norm = keras.layers.LayerNormalization(dtype=policy, name="norm")
        self.attention = _attention(width, heads, policy, "attention")
        self.hidden = keras.layers.Dense(2 * width, "gelu", dtype=policy, name="hidden")
        self.outputs = keras.layers.Dense(width, dtype=policy, name="outputs")

    def build(self, tokens_shape: tuple[int | None, ...]) -> None:
        """Builds from the tokens' shape."""
        self.norm.build(tokens_shape)
        self.attention.build(tokens_shape, tokens_shape)
        self.hidden.build(tokens_shape)
        self.outputs.build((*tokens_shape[:-1], 2 * self.width))
        self.built = True

    def call(self, tokens: tf.Tensor, empty: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Tokens ``[T, S, W]`` after attention to ``empty`` ``[T, 1, W]`` and to each other.

        `mask` ``[T, S, 1 + S]`` marks what each token may see.
        """
        normalised = self.norm(tokens)
        tokens = tokens + self.attention(
            query=normalised, value=tf.concat([empty, normalised], 1), attention_mask=mask
        )
        return tokens + self.outputs(self.hidden(tokens))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "width": self.width, "heads": self.heads}


def _attention(width: int, heads: int, policy: Any, name: str) -> keras.layers.MultiHeadAttention:
    return keras.layers.MultiHeadAttention(
        heads, width // heads, use_bias=False, dtype=policy, name=name
    )


def _before_all(mask: tf.Tensor) -> tf.Tensor:
    """The mask with a new first column, which all rows may see."""
    return tf.pad(mask, [[0, 0], [0, 0], [1, 0]], constant_values=True)


def _positions(rows: tf.Tensor, width: int) -> tf.Tensor:
    """Sinusoidal position encoding ``[rows, width]``; source: see `TransformerMetaBlock`."""
    angle = tf.cast(tf.range(rows), tf.float32)[:, None] * tf.constant(
        1e4 ** (-2.0 * (np.arange(width) // 2) / width), tf.float32
    )
    return tf.where(tf.range(width) % 2 == 0, tf.sin(angle), tf.cos(angle))
