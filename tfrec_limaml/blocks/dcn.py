"""DCN-v2: explicit feature crosses beside a deep network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.mlp import MLPGlobalBlock
from tfrec_limaml.blocks.tfrs import feature_interaction
from tfrec_limaml.features import Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class DCNGlobalBlock(MLPGlobalBlock):
    """`MLPGlobalBlock` plus a logit on crossed features: ``x_{l+1} = x_0 * (W x_l + b) + x_l``.

    By default only features are crossed, which makes the crosses part of the context; the meta
    embedding enters the deep network. Source: Wang et al., "DCN V2: Improved Deep & Cross Network
    and Practical Lessons for Web-scale Learning to Rank Systems", WWW 2021, arXiv 2008.13535. The
    cross layers are `tensorflow_recommenders.layers.dcn.Cross`.

    Examples:
        >>> block = DCNGlobalBlock((256, 128), cross_layers=2, projection_dim=16)

    Args:
        hidden_units: Widths of the deep network's hidden layers, at least one.
        cross_layers: Number of cross layers.
        projection_dim: Rank of the crosses' matrices; ``None`` for full rank.
        cross_meta_embedding: Cross the meta embedding with the features too. The crosses then run
            in every inner step.
        **kwargs: See `MLPGlobalBlock`; ``embeddings`` are crossed as well.

    Raises:
        ValueError: `cross_layers` or `projection_dim` is below 1.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (256, 128),
        cross_layers: int = 2,
        projection_dim: int | None = None,
        cross_meta_embedding: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_units, **kwargs)
        if cross_layers < 1:
            raise ValueError(f"cross_layers must be at least 1, received {cross_layers}")
        if projection_dim is not None and projection_dim < 1:
            raise ValueError(
                f"projection_dim must be at least 1 or None, received {projection_dim}"
            )
        self.projection_dim = projection_dim
        self.cross_meta_embedding = bool(cross_meta_embedding)
        layer = feature_interaction().Cross
        self.crosses = [
            layer(projection_dim, dtype=self.dtype_policy, name=f"cross_{i}")
            for i in range(cross_layers)
        ]
        self.cross_logit = keras.layers.Dense(
            1, use_bias=False, dtype=self.dtype_policy, name="cross_logit"
        )

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding."""
        super().build(features_shape, meta_embedding_shape)
        width = int(self.inputs_layer.compute_output_shape(features_shape)[-1] or 0)
        if self.cross_meta_embedding:
            width += int(meta_embedding_shape[-1] or 0)
        inputs = keras.KerasTensor((None, width), dtype=self.compute_dtype)
        for cross in self.crosses:
            cross(inputs, inputs)  # a Cross creates its weights at the first call, not in `build`
        self.cross_logit.build((None, width))

    def encode_context(
        self, features: Features, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The features' share of the deep network's first layer, and the cross logit ``[N]``.

        With `cross_meta_embedding` the crosses' input takes the place of the cross logit.
        """
        inputs = self.inputs_layer(features)
        return self.context_layer(inputs), inputs if self.cross_meta_embedding else self._cross(
            inputs
        )

    def head(
        self,
        context: tuple[tf.Tensor, tf.Tensor],
        meta_embedding: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        deep, crossed = context
        if self.cross_meta_embedding:
            crossed = self._cross(tf.concat([crossed, tf.cast(meta_embedding, crossed.dtype)], -1))
        return super().head(deep, meta_embedding, training) + crossed

    def _cross(self, inputs: tf.Tensor) -> tf.Tensor:
        crossed = inputs
        for cross in self.crosses:
            crossed = cross(inputs, crossed)
        return self.cross_logit(crossed)[..., 0]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "cross_layers": len(self.crosses),
            "projection_dim": self.projection_dim,
            "cross_meta_embedding": self.cross_meta_embedding,
        }
