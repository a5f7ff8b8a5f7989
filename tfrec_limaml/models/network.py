"""The meta block and the global block as one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import LowRankKernel, SharedWeight, with_task_axis
from tfrec_limaml.adaptation.per_task import apply_per_task
from tfrec_limaml.adaptation.vectorized import vectorized
from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.blocks.optional_methods import calls_per_task
from tfrec_limaml.features import Features
from tfrec_limaml.keras_internals import layers_within
from tfrec_limaml.models.checked_blocks import check_shapes, missing_features_named

#: Approximate number of support rows from which a kernel per task costs no more than a low-rank
#: form.
WIDE = 48


@keras.saving.register_keras_serializable("tfrec_limaml")
class RecommenderNetwork(keras.layers.Layer):
    """Meta block, then global block: encoded features ``[N, ...]`` to logits ``[N]``."""

    def __init__(self, meta_block: MetaBlock, global_block: GlobalBlock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.meta_block = meta_block
        self.global_block = global_block

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds both blocks from the shapes ``[N, ...]`` of the encoded features.

        Raises:
            LimamlError: A block reads a feature that does not exist, or gives a wrong shape.
        """
        blocks_of_loaded_model = self.meta_block.built and self.global_block.built
        if not self.meta_block.built:
            with missing_features_named(self.meta_block, features_shape):
                self.meta_block.build(features_shape)
        if not self.global_block.built:
            with missing_features_named(self.global_block, features_shape):
                self.global_block.build(features_shape, (None, self.meta_block.embedding_dim))
        if not blocks_of_loaded_model:
            check_shapes(self.meta_block, self.global_block, features_shape)
        for block in (self.meta_block, self.global_block):
            if not block.trainable:
                _freeze(block)
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
        """All weights except the embedding tables, which a task's few rows would hardly change."""
        tables = {
            id(v)
            for layer in layers_within(self)
            if isinstance(layer, FeatureEmbeddings)
            for v in layer.trainable_variables
        }
        return [v for v in self.trainable_variables if id(v) not in tables]

    def initial_weights(self, label: tf.Tensor) -> list[Any]:
        """Each task's weights before the first step, one for each of `adaptable_variables`.

        Weights of a block that is computed for all tasks at once have forms without a copy per
        task; see `tfrec_limaml.adaptation.inner_weights`.

        Args:
            label: Support labels ``[T, S]``; only their shape is used.
        """
        tasks = tf.shape(label)[0]
        kernels = {
            id(layer.kernel)
            for block in (self.meta_block, self.global_block)
            if calls_per_task(block)
            for layer in layers_within(block)
            if type(layer) is keras.layers.Dense and layer.compute_dtype == layer.variable_dtype
        }
        batched = {
            id(v)
            for block in (self.meta_block, self.global_block)
            if calls_per_task(block)
            for v in block.trainable_variables
        }

        def form(variable: keras.Variable) -> Any:
            value = tf.convert_to_tensor(variable)
            if id(variable) not in batched:
                return tf.broadcast_to(value, tf.concat([tasks[None], value.shape], 0))
            if id(variable) in kernels and _is_wide(value):
                return LowRankKernel(value, label)
            return SharedWeight(value, tasks)

        return [form(v) for v in self.adaptable_variables]

    def call_adapted(
        self, weights: list[Any], features: Features, training: bool = False
    ) -> tf.Tensor:
        """Logits ``[T, S]`` under per-task weights of the whole network.

        Args:
            weights: One ``[T, ...]`` tensor, or a form of `tfrec_limaml.adaptation.inner_weights`,
                for each of `adaptable_variables`.
            features: Encoded features ``[T, S, ...]``.
            training: Passed on to the layers.
        """
        adapted = {id(v): w for v, w in zip(self.adaptable_variables, weights, strict=True)}
        embedding = _call_block(self.meta_block, adapted, (dict(features),), training)
        return _call_block(self.global_block, adapted, (dict(features), embedding), training)


def _freeze(block: keras.layers.Layer) -> None:
    """Freezes the parts of a block that was made with ``trainable=False``.

    Keras applies the argument before the parts exist.
    """
    block.trainable = True  # an assignment of the present value would be ignored
    block.trainable = False


def _call_block(
    block: MetaBlock | GlobalBlock, adapted: Mapping[int, Any], inputs: Any, training: bool
) -> tf.Tensor:
    """Calls a block with per-task weights, layer by layer or through `tf.vectorized_map`.

    Args:
        block: The block.
        adapted: Weights by the `id` of their variable.
        inputs: Arguments of the block, ``[T, S, ...]``.
        training: Passed on to the layers.
    """
    if calls_per_task(block):

        def call(layer: keras.layers.Layer, values: Any) -> Any:
            weights = [adapted[id(v)] for v in layer.trainable_variables]
            return apply_per_task(layer, weights, values, training)

        return cast(Any, block).call_per_task(*inputs, call)
    batched_weights = [
        tf.ensure_shape(with_task_axis(adapted[id(v)]), (None, *v.shape))
        if id(v) in adapted
        else None
        for v in block.trainable_variables
    ]
    return vectorized(block, batched_weights, inputs, {}, training)


def _is_wide(kernel: tf.Tensor) -> bool:
    """Whether a kernel per task would cost more than products with the support rows."""
    rows, columns = kernel.shape
    return rows * columns >= WIDE * (rows + columns)
