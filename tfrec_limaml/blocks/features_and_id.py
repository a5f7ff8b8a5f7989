"""An MLP on the meta features and on an ID embedding, both adapted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import SharedWeight
from tfrec_limaml.adaptation.per_task import apply_per_task
from tfrec_limaml.blocks.id_offsets import IDOffsets
from tfrec_limaml.blocks.mlp import MLPMetaBlock
from tfrec_limaml.features import Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class FeaturesAndIDMetaBlock(MLPMetaBlock):
    """`MLPMetaBlock` whose input also has an ID embedding; the inner loop adapts both.

    The embedding is a learned prior plus a learned offset, as in `IDEmbeddingMetaBlock`: unseen IDs
    start at the prior.

    Examples:
        >>> block = FeaturesAndIDMetaBlock("user_id", size=10_000, id_width=16)

    Args:
        feature: Name of the single-valued meta feature that holds the ID; its schema entry needs an
            ``embedding_width``.
        size: Number of ids, including the id of unknown values; see `FeatureEncoder.size`.
        id_width: Width ``W`` of the ID embedding.
        unknown_id: The id that stands for all unknown values: 0 for a vocabulary, None for hash
            buckets, which have none.
        embeddings_regularizer: Keras regularizer of the offsets.
        hidden_units: Widths of the MLP's hidden layers.
        embedding_dim: Width ``D`` of the meta embedding.
        **kwargs: See `MLPMetaBlock`; its ``embeddings`` should not contain `feature`.
    """

    def __init__(
        self,
        feature: str,
        size: int,
        id_width: int = 16,
        unknown_id: int | None = 0,
        embeddings_regularizer: Any = None,
        hidden_units: Sequence[int] = (128,),
        embedding_dim: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_units, embedding_dim, **kwargs)
        self.offsets = IDOffsets(
            feature,
            size,
            id_width,
            unknown_id,
            embeddings_regularizer,
            dtype=self.dtype_policy,
            name="offsets",
        )

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Creates the prior and the offsets, and builds the layers."""
        self.inputs_layer.build(features_shape)
        self.offsets.build(features_shape)
        width = self.offsets.width
        self.prior = self.add_weight(name="prior", shape=(width,), initializer="uniform")
        self.network.build(
            (None, width + int(self.inputs_layer.compute_output_shape(features_shape)[-1] or 0))
        )
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """The ID's offset, dense meta features and embeddings, concatenated."""
        return tf.concat([self.offsets(features), self.inputs_layer(features)], -1)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """The prior, then all kernels and biases.

        A step on the prior's per-task copy is a step on the task's embedding.
        """
        return [self.prior, *self.network.trainable_variables]

    def initial_weights(self, encoded: tf.Tensor) -> list[Any]:
        """The prior with a task axis, and the layers' weights as `SharedWeight`.

        None of them is a `DualKernel`: the layers' input changes with the prior.
        """
        tasks = tf.shape(encoded)[0]
        layers = [
            SharedWeight(tf.convert_to_tensor(v), tasks) for v in self.network.trainable_variables
        ]
        return [tf.repeat(tf.convert_to_tensor(self.prior)[None], tasks, 0), *layers]

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        rows, other_features = self._split(encoded)
        rows = rows + tf.cast(weights[0], rows.dtype)[:, None]
        return apply_per_task(
            self.network, weights[1:], tf.concat([rows, other_features], -1), training
        )

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        rows, other_features = self._split(encoded)
        return self.network(
            tf.concat(
                [rows + tf.cast(tf.convert_to_tensor(self.prior), rows.dtype), other_features], -1
            ),
            training=training,
        )

    def _split(self, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return encoded[..., : self.offsets.width], encoded[..., self.offsets.width :]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        offsets = self.offsets
        return {
            **super().get_config(),
            "feature": offsets.feature,
            "size": offsets.size,
            "id_width": offsets.width,
            "unknown_id": offsets.unknown_id,
            "embeddings_regularizer": keras.regularizers.serialize(offsets.embeddings_regularizer),
        }
