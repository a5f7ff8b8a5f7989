"""A meta block with a shared network and an adapted offset to its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import LayerCall, MetaBlock
from tfrec_limaml.blocks.mlp import MLPMetaBlock
from tfrec_limaml.blocks.support_encoder import SupportEncoder
from tfrec_limaml.features import Features


class StoresOffset(MetaBlock):
    """A meta block that adds each task's offset to un-adapted embeddings, and stores the offset."""

    @property
    def stores_offset(self) -> bool:
        """True: see `MetaBlock.stores_offset`."""
        return True

    def stored_rows(self, weights: list[tf.Tensor], encoded: tf.Tensor) -> tf.Tensor:
        """The task's offset, for each of its rows."""
        return tf.repeat(weights[0][:, None], tf.shape(encoded)[1], 1)

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        return encoded + tf.cast(weights[0], encoded.dtype)[:, None]

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        return encoded


@keras.saving.register_keras_serializable("tfrec_limaml")
class OffsetMetaBlock(StoresOffset):
    """Meta embedding = ``network(meta features) + offset``; only the offset is adapted.

    The network is shared by all tasks and trained in the outer loop. A task's offset is a vector of
    the embedding's width. It starts at zero, so adaptation cannot overwrite what the network has
    learned, and it is small enough for the closed form (``LiMAML(adaptation="gauss-newton")``).

    The stored vector of a task is its offset. A row's embedding is the network's output on the
    row's meta features plus the offset: features that vary within a task keep their effect.

    Examples:
        >>> meta_block = OffsetMetaBlock((64,), embedding_dim=33)
        >>> global_block = DotProductGlobalBlock((128, 64))
        >>> model = LiMAML(meta_block, global_block, adaptation="gauss-newton")

    Args:
        hidden_units: Widths of the network's hidden layers.
        embedding_dim: Width ``D`` of the meta embedding.
        activation: Activation of the hidden layers; the output is linear.
        dropout: Dropout rate after each hidden layer.
        embeddings: Categorical meta features to embed: name to ``(number of ids, width)``.
        support_encoder: Computes a task's initial offset from its interactions. This is also the
            mean of the closed form's prior. None for zero.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: The support encoder has another `embedding_dim`.
    """

    def __init__(
        self,
        hidden_units: tuple[int, ...] = (64,),
        embedding_dim: int = 33,
        activation: Any = "gelu",
        dropout: float = 0.0,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        support_encoder: SupportEncoder | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, **kwargs)
        if support_encoder is not None and support_encoder.embedding_dim != embedding_dim:
            raise ValueError(
                f"support_encoder must have embedding_dim {embedding_dim}, received "
                f"{support_encoder.embedding_dim}"
            )
        self.support_encoder = support_encoder
        self.shared = MLPMetaBlock(
            hidden_units,
            embedding_dim,
            activation,
            dropout,
            embeddings,
            dtype=self.dtype_policy,
            name="shared",
        )

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds the network and the initial offset of all tasks, which is zero."""
        self.shared.build(features_shape)
        self.offset = self.add_weight(
            name="offset", shape=(self.embedding_dim,), initializer="zeros", trainable=False
        )
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """The shared network's output, ``[N, D]``."""
        return self.shared(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """The offset."""
        return [self.offset]

    def call_per_task(self, features: Features, call: LayerCall) -> tf.Tensor:
        """Embeddings ``[T, S, D]`` of the shared network; see `MetaBlock`."""
        return self.shared.call_per_task(features, call)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        shared = self.shared.get_config()
        names = ("hidden_units", "activation", "dropout", "embeddings")
        encoder = self.support_encoder
        return {
            **super().get_config(),
            **{name: shared[name] for name in names},
            "support_encoder": encoder and keras.saving.serialize_keras_object(encoder),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OffsetMetaBlock:
        """Inverse of `get_config`; models of earlier versions have no support encoder."""
        encoder = config.get("support_encoder")
        encoder = encoder and keras.saving.deserialize_keras_object(encoder)
        return cls(**{**config, "support_encoder": encoder})
