"""The two blocks as one network: what is trained, saved and, for whole-network methods, adapted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.features import Features
from tfrec_limaml.keras_internals import layers_within


@keras.saving.register_keras_serializable("tfrec_limaml")
class RecommenderNetwork(keras.layers.Layer):
    """Meta block, then global block: encoded features ``[N, ...]`` to logits ``[N]``."""

    def __init__(self, meta_block: MetaBlock, global_block: GlobalBlock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.meta_block = meta_block
        self.global_block = global_block

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds both blocks from the shapes ``[N, ...]`` of the encoded features."""
        if not self.meta_block.built:  # blocks of a loaded model are
            self.meta_block.build(features_shape)
        if not self.global_block.built:
            self.global_block.build(features_shape, (None, self.meta_block.embedding_dim))
        self.built = True

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """Un-adapted logits ``[N]``."""
        return self.global_block(
            features, self.meta_block(features, training=training), training=training
        )

    def compute_output_shape(
        self, features_shape: Mapping[str, tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """``[N]``."""
        return (next(iter(features_shape.values()))[0],)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """All weights but the embedding tables, which a task's few rows would hardly touch."""
        tables = {
            id(v)
            for layer in layers_within(self)
            if isinstance(layer, FeatureEmbeddings)
            for v in layer.trainable_variables
        }
        return [v for v in self.trainable_variables if id(v) not in tables]

    def call_adapted(
        self, weights: list[tf.Tensor], features: Features, training: bool = False
    ) -> tf.Tensor:
        """Logits ``[T, S]`` under per-task weights of the whole network.

        Args:
            weights: One ``[T, ...]`` tensor for each of `adaptable_variables`.
            features: Encoded features ``[T, S, ...]``.
            training: Passed on to the layers.
        """
        places = {id(v): i for i, v in enumerate(self.adaptable_variables)}
        fixed = [tf.convert_to_tensor(v) for v in self.non_trainable_variables]
        shared = {
            id(v): tf.convert_to_tensor(v) for v in self.trainable_variables if id(v) not in places
        }

        def one_task(pair: Any) -> tf.Tensor:
            task_weights, rows = pair
            values = [
                task_weights[places[id(v)]] if id(v) in places else shared[id(v)]
                for v in self.trainable_variables
            ]
            return self.stateless_call(values, fixed, rows, training=training)[0]

        return tf.vectorized_map(
            one_task, (tuple(weights), dict(features)), fallback_to_while_loop=False
        )
