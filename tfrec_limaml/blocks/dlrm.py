"""DLRM: pairwise dot products of feature vectors, the meta embedding among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.blocks.mlp import MLPGlobalBlock
from tfrec_limaml.blocks.tfrs import feature_interaction
from tfrec_limaml.features import Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class DLRMGlobalBlock(MLPGlobalBlock):
    """An MLP on pairwise dot products of the dense features, the IDs and the meta embedding.

    All are mapped to vectors of one width. Products among features are part of the context; only
    those with the meta embedding are computed in the head. Source: Naumov et al., "Deep Learning
    Recommendation Model for Personalization and Recommendation Systems", 2019, arXiv 1906.00091.
    The products are computed by ``DotInteraction`` of `tensorflow_recommenders`.

    Examples:
        >>> block = DLRMGlobalBlock((256, 128), ids={"item_id": 10_000}, interaction_dim=16)

    Args:
        hidden_units: Widths of the top network's hidden layers, at least one.
        ids: Categorical features: name to number of ids. Each id has a vector.
        interaction_dim: Width ``W`` of all vectors. A meta embedding of another width is projected
            to it.
        bottom_units: Widths of the hidden layers that map the dense features to a vector.
        **kwargs: See `MLPGlobalBlock`; `ids` replace its ``embeddings``.

    Raises:
        ValueError: `interaction_dim` is below 1.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (256, 128),
        ids: Mapping[str, int] | None = None,
        interaction_dim: int = 16,
        bottom_units: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        if interaction_dim < 1:
            raise ValueError(f"interaction_dim must be at least 1, received {interaction_dim}")
        super().__init__(hidden_units, **kwargs)
        self.ids = {name: int(size) for name, size in (ids or {}).items()}
        self.interaction_dim = int(interaction_dim)
        self.bottom_units = tuple(bottom_units)
        policy = self.dtype_policy
        vectors = {name: (size, self.interaction_dim) for name, size in self.ids.items()}
        self.tables = FeatureEmbeddings(
            (), vectors, self.inputs_layer.embeddings_regularizer, dtype=policy, name="ids"
        )
        widths = (*self.bottom_units, self.interaction_dim)
        self.bottom = keras.Sequential(
            [
                keras.layers.Dense(width, self.activation, dtype=policy, name=f"bottom_{i}")
                for i, width in enumerate(widths)
            ],
            name="bottom",
        )
        self.project = keras.layers.Dense(
            self.interaction_dim, use_bias=False, dtype=policy, name="project"
        )
        # The layer computes all products, with zeros above the diagonal, and `encode_context`
        # gathers those below it: the output of the layer's own gather has no static shape.
        self.dots = feature_interaction().DotInteraction(
            skip_gather=True, dtype=policy, name="dots"
        )
        count = len(self.ids) + 1
        row, column = np.tril_indices(count, -1)
        self._pairs = (row * count + column).astype(np.int32)

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding."""
        embedding_dim = int(meta_embedding_shape[-1] or 0)
        self.inputs_layer.build(features_shape)
        self.tables.build(features_shape)
        self.bottom.build((None, self.inputs_layer.compute_output_shape(features_shape)[-1]))
        self.context_layer.build((None, self.interaction_dim + len(self._pairs)))
        self.project.build((None, embedding_dim))
        self.embedding_layer.build((None, embedding_dim + len(self.ids) + 1))
        self.network.build((None, self.hidden_units[0]))
        self.built = True

    def encode_context(
        self, features: Features, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The features' share of the first top layer, and the vectors ``[N, K, W]``."""
        vectors = [self.bottom(self.inputs_layer(features), training=training)]
        if self.ids:
            vectors += tf.split(self.tables(features), len(self.ids), -1)
        dots = tf.gather(self.dots(vectors), self._pairs, axis=-1)
        return self.context_layer(tf.concat([vectors[0], dots], -1)), tf.stack(vectors, 1)

    def head(
        self,
        context: tuple[tf.Tensor, tf.Tensor],
        meta_embedding: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        first, vectors = context
        dots = tf.linalg.matvec(vectors, self.project(meta_embedding))
        return super().head(
            first, tf.concat([tf.cast(meta_embedding, dots.dtype), dots], -1), training
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "ids": self.ids,
            "interaction_dim": self.interaction_dim,
            "bottom_units": self.bottom_units,
        }
