"""The ID as meta feature: one adapted embedding per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import MetaBlock
from tfrec_limaml.blocks.id_offsets import IDOffsets
from tfrec_limaml.features import Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class IDEmbeddingMetaBlock(MetaBlock):
    """Meta embedding = ``prior + offset of the ID``; both are learned, and adapted per task.

    The rows of a task share one ID: the task key, or a value that follows from it. A gradient step
    on the task's embedding is therefore the same step on the task's copy of the prior, and that
    copy is the adapted weight. An ID that did not occur in training has offset 0: it starts at the
    prior, and adaptation gives it an embedding.

    Examples:
        >>> block = IDEmbeddingMetaBlock("user_id", size=10_000, embedding_dim=32)

    Args:
        feature: Name of the single-valued meta feature that holds the ID; its schema entry needs an
            ``embedding_width``.
        size: Number of ids, including the id of unknown values; see `FeatureEncoder.size`.
        embedding_dim: Width ``D`` of the meta embedding.
        unknown_id: The id that stands for all unknown values: 0 for a vocabulary, None for hash
            buckets, which have none.
        embeddings_regularizer: Keras regularizer of the offsets.
    """

    def __init__(
        self,
        feature: str,
        size: int,
        embedding_dim: int = 32,
        unknown_id: int | None = 0,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, **kwargs)
        self.offsets = IDOffsets(
            feature,
            size,
            self.embedding_dim,
            unknown_id,
            embeddings_regularizer,
            dtype=self.dtype_policy,
            name="offsets",
        )

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Creates the prior and the offsets."""
        self.offsets.build(features_shape)
        self.prior = self.add_weight(
            name="prior", shape=(self.embedding_dim,), initializer="uniform"
        )
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """The rows' offsets."""
        return self.offsets(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """The prior: a step on its per-task copy is a step on the task's embedding."""
        return [self.prior]

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        return encoded + tf.cast(weights[0], encoded.dtype)[:, None]

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        return encoded + tf.cast(tf.convert_to_tensor(self.prior), encoded.dtype)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        offsets = self.offsets
        return {
            **super().get_config(),
            "feature": offsets.feature,
            "size": offsets.size,
            "unknown_id": offsets.unknown_id,
            "embeddings_regularizer": keras.regularizers.serialize(offsets.embeddings_regularizer),
        }
