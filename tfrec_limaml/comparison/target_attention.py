"""Attention over a task's history, with the scored row as its target.

The history is the support set, labels included. The result differs from row to row, so it cannot be
stored: in production each request would have to contain the whole history. Source: Zhou et al.,
"Deep Interest Network for Click-Through Rate Prediction", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import MetaBlock
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.features import META, OTHER, Features
from tfrec_limaml.models import LiMAML, TaskModel
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.block_catalogue import GLOBAL_BLOCKS, global_embeddings, shrinkage
from tfrec_limaml.training.model_options import ModelOptions

#: Number that is added to the number of history rows when the weighted sum is divided by it.
SMOOTHING = 5.0


@keras.saving.register_keras_serializable("tfrec_limaml")
class TargetAttention(MetaBlock):
    """Meta embedding of a row = weighted sum of the task's history rows.

    The weight of a history row ``h`` for the row ``c`` is a small network of ``h``, ``c``, their
    product and their difference, without softmax. Its first layer is linear, so ``c`` and ``h``
    enter it separately (the difference needs no weights), and their product enters as one matrix
    product per unit. A row of the history itself sees strictly earlier rows only.

    Args:
        embedding_dim: Width ``D`` of the sum.
        embeddings: See `FeatureEmbeddings`.
        embeddings_scales: See `FeatureEmbeddings`.
        width: Width ``W`` of the compared vectors.
        units: Units ``U`` of the weighting network.
        label_mean: Mean label of the training rows.
    """

    def __init__(
        self,
        embedding_dim: int = 33,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        embeddings_scales: Mapping[str, Sequence[float]] | None = None,
        width: int = 32,
        units: int = 16,
        label_mean: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, **kwargs)
        self.width, self.units, self.label_mean = int(width), int(units), float(label_mean)
        policy = self.dtype_policy
        self.inputs_layer = FeatureEmbeddings(
            (META, OTHER), embeddings, embeddings_scales=embeddings_scales, dtype=policy
        )
        dense = keras.layers.Dense
        self.target_layer = dense(self.width, dtype=policy, name="target")
        self.history_layer = dense(self.width, dtype=policy, name="history")
        self.of_target = dense(self.units, use_bias=False, dtype=policy, name="of_target")
        self.of_history = dense(self.units, dtype=policy, name="of_history")
        self.weigh_layer = dense(1, dtype=policy, name="weigh")
        self.value_layer = dense(self.embedding_dim, dtype=policy, name="value")

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds from the shapes of the encoded features."""
        self.inputs_layer.build(features_shape)
        inputs = int(self.inputs_layer.compute_output_shape(features_shape)[-1] or 0)
        self.target_layer.build((None, None, inputs))
        self.history_layer.build((None, None, inputs + 1))
        for layer in (self.of_target, self.of_history, self.value_layer):
            layer.build((None, None, self.width))
        self.weigh_layer.build((None, self.units))
        self.of_product = self.add_weight(name="of_product", shape=(self.units, self.width))
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """Dense features and embeddings, concatenated."""
        return self.inputs_layer(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """Empty: the block reads the history, and is not adapted."""
        return []

    def encode_support(
        self, encoded: tf.Tensor, label: tf.Tensor, weight: tf.Tensor
    ) -> list[tf.Tensor]:
        """The history rows ``[T, S, W]``, with their labels, and which are real ``[T, S]``."""
        centred = tf.cast(label - self.label_mean, encoded.dtype)[..., None]
        return [self.history_layer(tf.concat([encoded, centred], -1)), weight > 0]

    def read_support(self, encoded: tf.Tensor, memory: Sequence[Any], causal: bool) -> tf.Tensor:
        """The attention output of each row, ``[T, N, D]``; zero without a history."""
        if not memory:
            shape = tf.concat([tf.shape(encoded)[:-1], [self.embedding_dim]], 0)
            return tf.zeros(shape, encoded.dtype)
        history, real = memory
        rows = tf.shape(encoded)[1]
        visible = tf.cast(real, encoded.dtype)[:, None]
        if causal:
            ones = tf.ones([rows, rows], encoded.dtype)
            visible = visible * (ones - tf.linalg.band_part(ones, 0, -1))
        weights = self._weights(self.target_layer(encoded), history) * visible
        count = tf.reduce_sum(visible, -1, keepdims=True) + SMOOTHING
        return tf.matmul(weights, self.value_layer(history)) / count

    def _weights(self, target: tf.Tensor, history: tf.Tensor) -> tf.Tensor:
        """Weights ``[T, N, S]`` of history rows ``[T, S, W]`` for rows ``[T, N, W]``."""
        kernel = tf.cast(tf.convert_to_tensor(self.of_product), target.dtype)
        product = tf.einsum("tnuw,tsw->tnsu", target[:, :, None] * kernel, history)
        summed = self.of_target(target)[:, :, None] + self.of_history(history)[:, None]
        return self.weigh_layer(tf.nn.gelu(summed + product))[..., 0]

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """The output of `read_support`."""
        return encoded

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Zero: a row without a task has no history."""
        return self.read_support(encoded, [], causal=False)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "embeddings": self.inputs_layer.embeddings,
            "embeddings_scales": self.inputs_layer.embeddings_scales,
            "width": self.width,
            "units": self.units,
            "label_mean": self.label_mean,
        }


def build_target_attention(
    algorithm: str, encoder: FeatureEncoder, options: ModelOptions
) -> TaskModel:
    """A model that reads the history by target attention; see `build_model`.

    Query rows attend to the whole support set, support rows to earlier ones; both contribute to the
    loss.
    """
    block = TargetAttention(
        options.embedding_dim,
        global_embeddings(encoder, options),
        shrinkage(encoder, options.shrinkage),
        label_mean=encoder.statistics.label_mean,
        name="meta_block",
    )
    return LiMAML(
        block,
        GLOBAL_BLOCKS[options.global_block](encoder, options, ()),
        encoder=encoder,
        inner_steps=0,
        unadapted_loss_weight=options.unadapted_loss_weight,
        averaging="sample",
        name="target_attention",
    )
