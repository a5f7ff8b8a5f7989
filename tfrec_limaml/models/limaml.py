"""LiMAML: only the meta block is adapted; its output is a vector that can be stored.

Method: Wang et al., "LiMAML: Personalization of Deep Recommender Models via Meta Learning", KDD
2024, arXiv 2403.00803.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.axes import flatten_tasks, merge_axes, split_axes
from tfrec_limaml.adaptation.inner_loop import Weights, adapt
from tfrec_limaml.adaptation.pooling import pool
from tfrec_limaml.blocks.nested import Subtasks
from tfrec_limaml.features import Features, subtask_feature
from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.outer_step import Samples


class SubtaskEmbeddings(NamedTuple):
    """What is stored for one nested task definition.

    Attributes:
        subtasks: The subtasks of the batch.
        embedding: Their meta embeddings ``[P, D]``.
    """

    subtasks: Subtasks
    embedding: tf.Tensor


class TaskEmbeddings(NamedTuple):
    """What is stored for a batch of tasks.

    Attributes:
        embedding: Meta embeddings ``[T, D]``.
        loss_before: Support losses ``[T]`` before adaptation.
        loss_after: Support losses ``[T]`` after it.
        nested: One entry for each nested task definition of the meta block.
    """

    embedding: tf.Tensor
    loss_before: tf.Tensor
    loss_after: tf.Tensor
    nested: tuple[SubtaskEmbeddings, ...] = ()


@keras.saving.register_keras_serializable("tfrec_limaml")
class LiMAML(MAMLModel):
    """Adapts the meta block per task and shares the global block.

    Example:
        >>> model = LiMAML(MLPMetaBlock(), MLPGlobalBlock(), inner_steps=1, inner_learning_rate=0.1)
        >>> model.compile(optimizer=keras.optimizers.Adam(1e-3))
        >>> model.fit(train_tasks, validation_data=validation_tasks, epochs=3)

    Args:
        pooling: How the meta embedding that is stored is made from a task's samples: ``"latest"``
            (the paper's), ``"mean"``, ``"max"`` or ``"cosine"`` (mean weighted by cosine similarity
            to the latest).
        **kwargs: See `MAMLModel` and `TaskModel`.
    """

    def __init__(
        self, meta_block: Any, global_block: Any, *, pooling: str = "latest", **kwargs: Any
    ) -> None:
        super().__init__(meta_block, global_block, **kwargs)
        if pooling not in ("latest", "mean", "max", "cosine"):
            raise ValueError(
                f"pooling must be 'latest', 'mean', 'max' or 'cosine', received {pooling!r}"
            )
        self.pooling = pooling

    @property
    def inner_variables(self) -> list[keras.Variable]:
        """The meta block's adaptable weights."""
        return self.meta_block.adaptable_variables

    def adapt_tasks(
        self, support: Samples, steps: int, training: bool = False
    ) -> tuple[Weights, list[tf.Tensor]]:
        """Adapts the meta block; what does not depend on the meta embedding is computed once,
        before the first step.

        Behind the adapted weights comes what the meta block keeps of the support set (most keep
        nothing); without steps, nothing.
        """
        encoded = self._encode_meta(support["features"])
        memory = (
            self.meta_block.encode_support(encoded, support["label"], support["weight"])
            if steps
            else []
        )
        encoded = self.meta_block.read_support(encoded, memory, causal=True)
        start = self.meta_block.initial_weights(encoded)
        if not steps:
            return start, []
        context = self._encode_context(support["features"], training)

        def losses(weights: Weights) -> tf.Tensor:
            return self.task_loss(self._head(weights, encoded, context, training), support)

        adapted, before = adapt(start, losses, steps, self.inner_rates(), self.second_order_steps)
        return [*adapted, *memory], before

    def adapted_outputs(
        self, weights: Weights, features: Features, training: bool = False
    ) -> tf.Tensor:
        """Outputs ``[T, S]``: adapted meta block, shared global block."""
        weights, memory = self._without_memory(weights)
        encoded = self.meta_block.read_support(self._encode_meta(features), memory, causal=False)
        return self._head(weights, encoded, self._encode_context(features, training), training)

    def task_embeddings(self, support: Samples) -> TaskEmbeddings:
        """What the embedding job stores: meta embeddings after `fine_tune_steps` steps, pooled over
        each task's samples.
        """
        weights, losses = self.adapt_tasks(support, self.fine_tune_steps)
        weights, memory = self._without_memory(weights)
        encoded = self._encode_meta(support["features"])
        outputs = self._head(
            weights,
            self.meta_block.read_support(encoded, memory, causal=True),
            self._encode_context(support["features"], False),
            False,
        )
        after = self.task_loss(outputs, support)
        embeddings = self.meta_block.call_adapted(
            weights, self.meta_block.read_support(encoded, memory, causal=False)
        )
        first, *nested = tf.split(embeddings, 1 + len(self.meta_block.nested_definitions), -1)
        pooled = pool(first, support["weight"], self.pooling)
        return TaskEmbeddings(
            pooled, losses[0] if losses else after, after, self._subtask_embeddings(nested, support)
        )

    def _subtask_embeddings(
        self, nested: list[tf.Tensor], support: Samples
    ) -> tuple[SubtaskEmbeddings, ...]:
        found = []
        for definition, embeddings in zip(self.meta_block.nested_definitions, nested, strict=True):
            subtasks = Subtasks.of(
                support["features"][subtask_feature(definition)], support["weight"]
            )
            pooled = pool(
                tf.gather(embeddings, subtasks.owner),
                subtasks.weights(support["weight"]),
                self.pooling,
            )
            found.append(SubtaskEmbeddings(subtasks, pooled))
        return tuple(found)

    def _without_memory(self, weights: Weights) -> tuple[Weights, Weights]:
        count = len(self.inner_variables)
        return weights[:count], weights[count:]

    def _encode_meta(self, features: Features) -> Any:
        like = next(iter(features.values()))
        return tf.nest.map_structure(
            lambda value: split_axes(value, like),
            self.meta_block.encode_features(flatten_tasks(features)),
        )

    def _encode_context(self, features: Features, training: bool) -> Any:
        return self.global_block.encode_context(flatten_tasks(features), training)

    def _head(self, weights: Weights, encoded: Any, context: Any, training: bool) -> tf.Tensor:
        embeddings = self.meta_block.call_adapted(weights, encoded, training)
        return split_axes(
            self.global_block.head(context, merge_axes(embeddings), training), embeddings
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "pooling": self.pooling}
