"""A user's Keras layers as meta block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.per_task import apply_per_task, check_batchable, trains_all
from tfrec_limaml.blocks.base import MetaBlock
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.blocks.mlp import initial_forms
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import META, Features
from tfrec_limaml.keras_internals import training_argument


@keras.saving.register_keras_serializable("tfrec_limaml")
class KerasMetaBlock(MetaBlock):
    """Any Keras layer, `keras.Sequential` or functional model that maps ``[N, F]`` to ``[N, D]``.

    Examples:
        >>> layers = [keras.layers.Dense(64, "gelu"), keras.layers.Dense(32)]
        >>> stack = keras.Sequential(layers)
        >>> block = KerasMetaBlock(stack, embedding_dim=32)

    All trainable variables of the layer are adapted per task; a part with ``trainable=False`` is
    shared and fixed. The layer keeps its dtype policy.

    Args:
        layer: The layer. A custom layer must be registered with
            `keras.saving.register_keras_serializable` to be saved.
        embedding_dim: Width ``D`` of the layer's output, the meta embedding.
        embeddings: Categorical meta features to embed: name to ``(number of ids, width)``. The
            tables are shared by all tasks, and trained in the outer loop only.

    Raises:
        ValueError: `layer` is not a Keras layer.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        embedding_dim: int,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"layer must be a Keras layer or model, received {layer!r}")
        super().__init__(embedding_dim, **kwargs)
        self.layer = layer
        self.inputs_layer = FeatureEmbeddings(
            (META,), embeddings, dtype=self.dtype_policy, name="inputs"
        )

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds the layer and traces it on two tasks.

        Raises:
            LimamlError: The layer's output is not ``[N, D]``, or a part of it, which the message
                names, cannot be batched over tasks.
        """
        self.inputs_layer.build(features_shape)
        width = self.inputs_layer.compute_output_shape(features_shape)[-1]
        rows = tf.zeros((2, width), self.compute_dtype)
        with tf.init_scope():  # a call also builds layers that have no `build` of their own
            outputs = self.call_encoded(rows)
        received = tf.nest.map_structure(lambda output: (None, *output.shape[1:]), outputs)
        if received != (None, self.embedding_dim):
            raise LimamlError(
                f"layer {self.layer.name!r} must map [N, {width}] to [N, {self.embedding_dim}] "
                f"(embedding_dim), received a layer with output {received}"
            )
        try:
            check_batchable(self.layer, rows)
        except ValueError as error:
            raise LimamlError(str(error)) from error
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """Dense meta features and embeddings, concatenated."""
        return self.inputs_layer(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """The layer's trainable variables; not the embedding tables."""
        return self.layer.trainable_variables

    def initial_weights(self, encoded: tf.Tensor) -> list[Any]:
        """Forms without a copy per task for a plain stack of dense layers; otherwise copies."""
        if isinstance(self.layer, keras.Sequential) and _starts_dense(self.layer.layers, encoded):
            return initial_forms(self.adaptable_variables, encoded)
        return super().initial_weights(encoded)

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        return apply_per_task(self.layer, weights, encoded, training)

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        return self.layer(encoded, **training_argument(self.layer, training))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "embeddings": self.inputs_layer.embeddings,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> KerasMetaBlock:
        """Inverse of `get_config`."""
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})


def _starts_dense(layers: Sequence[keras.layers.Layer], encoded: tf.Tensor) -> bool:
    """Whether all weights belong to dense layers, and the first of these reads the rows.

    A dual kernel requires both.
    """
    first = layers[0]
    weighted = [layer for layer in layers if layer.trainable_variables]
    return first in weighted and all(
        type(layer) is keras.layers.Dense
        and trains_all(layer)
        and layer.compute_dtype == encoded.dtype
        for layer in weighted
    )
