"""Wide & deep: an MLP, and beside it a linear model on features and IDs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import LayerCall
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.blocks.mlp import MLPGlobalBlock
from tfrec_limaml.features import META, OTHER, Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class WideAndDeepGlobalBlock(MLPGlobalBlock):
    """`MLPGlobalBlock` plus a linear logit, with one weight per ID and per dense feature.

    The architecture is that of the paper's baseline. The wide (linear) logit does not depend on the
    meta embedding, so it is part of the context. Source: Cheng et al., "Wide & Deep Learning for
    Recommender Systems", 2016, arXiv 1606.07792.

    Examples:
        >>> ids = {"item_id": (10_000, 16)}
        >>> block = WideAndDeepGlobalBlock((256, 128), {"item_id": 10_000}, embeddings=ids)

    Args:
        hidden_units: Widths of the deep part's hidden layers, at least one.
        wide_ids: Categorical features of the wide part: name to number of ids. Each id has one
            weight.
        **kwargs: See `MLPGlobalBlock`. ``embeddings`` are those of the deep part;
            ``embeddings_regularizer`` applies to the weights of both parts' IDs.

    Raises:
        ValueError: A feature in `wide_ids` has no ids.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (256, 128),
        wide_ids: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_units, **kwargs)
        self.wide_ids = {name: int(size) for name, size in (wide_ids or {}).items()}
        empty = {name: size for name, size in self.wide_ids.items() if size < 1}
        if empty:
            raise ValueError(f"wide_ids must give every feature at least one id, received {empty}")
        tables = {name: (size, 1) for name, size in self.wide_ids.items()}
        regularizer = self.inputs_layer.embeddings_regularizer
        self.wide_dense = FeatureEmbeddings(
            (META, OTHER), dtype=self.dtype_policy, name="wide_dense"
        )
        self.wide_tables = FeatureEmbeddings(
            (), tables, regularizer, "zeros", dtype=self.dtype_policy, name="wide_ids"
        )
        self.wide_layer = keras.layers.Dense(
            1, use_bias=False, dtype=self.dtype_policy, name="wide"
        )

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding."""
        self.wide_dense.build(features_shape)
        self.wide_tables.build(features_shape)
        self.wide_layer.build(self.wide_dense.compute_output_shape(features_shape))
        super().build(features_shape, meta_embedding_shape)

    def call_per_task(
        self, features: Features, meta_embedding: tf.Tensor, call: LayerCall
    ) -> tf.Tensor:
        """Logits ``[T, S]``; see `GlobalBlock`."""
        return self._head(self._context(features, call), meta_embedding, call)

    def _context(self, features: Features, call: LayerCall) -> tuple[tf.Tensor, tf.Tensor]:
        """The features' share of the deep part's first layer, and the wide logit ``[N]``.

        The share is ``[N, hidden_units[0]]``.
        """
        wide = call(self.wide_layer, self.wide_dense(features))[..., 0]
        if self.wide_ids:
            wide = wide + tf.reduce_sum(self.wide_tables(features), -1)
        return super()._context(features, call), wide

    def _head(
        self, context: tuple[tf.Tensor, tf.Tensor], meta_embedding: tf.Tensor, call: LayerCall
    ) -> tf.Tensor:
        deep, wide = context
        return super()._head(deep, meta_embedding, call) + wide

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "wide_ids": self.wide_ids}
