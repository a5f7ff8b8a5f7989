"""The interfaces of meta blocks and global blocks.

Both split their work in two, so that the inner loop does not repeat constant parts: a meta
block reads its features once (`MetaBlock.encode_features`) and is then applied with per-task
weights; a global block encodes everything that does not depend on the meta embedding once
(`GlobalBlock.encode_context`) and only its `GlobalBlock.head` runs in every step.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml.blocks.saved_arguments import check_arguments
from tfrec_limaml.blocks.support_encoder import SupportEncoder
from tfrec_limaml.features import Features, zero_row
from tfrec_limaml.keras_internals import training_argument

#: Calls a layer of a block on its input.
LayerCall = Callable[[keras.layers.Layer, Any], Any]


def call_of(training: bool) -> LayerCall:
    """A function that calls a layer, with `training` if the layer takes it."""
    return lambda layer, inputs: layer(inputs, **training_argument(layer, training))


def check_blocks(meta_block: Any, global_block: Any) -> None:
    """Raises `ValueError` if these are not blocks; it names the class that wraps Keras layers."""
    if not isinstance(meta_block, MetaBlock):
        raise ValueError(
            f"meta_block must be a MetaBlock, received {type(meta_block).__name__}; wrap Keras "
            "layers: KerasMetaBlock(layer, embedding_dim)"
        )
    if not isinstance(global_block, GlobalBlock):
        raise ValueError(
            f"global_block must be a GlobalBlock, received {type(global_block).__name__}; wrap a "
            "functional Keras model: FunctionalGlobalBlock(model)"
        )


class MetaBlock(keras.layers.Layer, abc.ABC):
    """The part of the network that is adapted per task; its output is the meta embedding.

    Subclasses implement `encode_features`, `adaptable_variables`, `call_adapted` and
    `call_encoded`. They may override `initial_weights`, if a task does not start from a copy of
    the shared weights; `encode_support` and `read_support`, to read the support set; and
    `stores_offset`. A block may also define ``call_per_task(features, call)``, which calls all
    layers with weights through `call`. If the whole network is adapted, such a block is computed
    for all tasks at once.

    Args:
        embedding_dim: Width ``D`` of the meta embedding.

    Attributes:
        support_encoder: A `SupportEncoder` that computes the initial offset of each task, or None.

    Raises:
        ValueError: `embedding_dim` is not a whole number of at least 1.
    """

    support_encoder: SupportEncoder | None = None

    def __init__(self, embedding_dim: int, **kwargs: Any) -> None:
        if not isinstance(embedding_dim, int | float | np.number):
            raise ValueError(f"embedding_dim must be a number, received {embedding_dim!r}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, received {embedding_dim}")
        if int(embedding_dim) != embedding_dim:
            raise ValueError(f"embedding_dim must be a whole number, received {embedding_dim}")
        super().__init__(**kwargs)
        self.embedding_dim = int(embedding_dim)

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds the layers by a call on a row of zeros; a subclass may use the shapes instead."""
        with tf.init_scope():
            self.call(zero_row(features_shape))
        self.built = True

    @property
    def nested_definitions(self) -> tuple[str, ...]:
        """Finer task definitions that parts of the block are adapted to; see `NestedMetaBlocks`."""
        return ()

    @property
    def joint_definitions(self) -> tuple[str, ...]:
        """The task definition of the second side; empty without one. See `JointMetaBlocks`."""
        return ()

    @property
    def further_definitions(self) -> tuple[str, ...]:
        """All task definitions other than that of the records."""
        return (*self.nested_definitions, *self.joint_definitions)

    @property
    def stored_dim(self) -> int:
        """Width of one stored embedding; a row's meta embedding joins one for each definition."""
        return self.embedding_dim // (1 + len(self.further_definitions))

    @property
    def stores_offset(self) -> bool:
        """Whether stored vectors are added to un-adapted embeddings, or replace them otherwise."""
        return False

    def stored_rows(self, weights: list[tf.Tensor], encoded: tf.Tensor) -> tf.Tensor:
        """Vectors ``[T, S, D]``: for each row, the vector that the row would store for its task.

        `LiMAML.pooling` makes one vector per task of them. See `call_adapted` for the arguments,
        and `stores_offset` for the meaning of the vectors.
        """
        return self.call_adapted(weights, encoded)

    def from_stored(self, stored: tf.Tensor, known: tf.Tensor, unadapted: tf.Tensor) -> tf.Tensor:
        """Meta embeddings ``[N, D]`` of rows, from the stored vectors of their tasks.

        Args:
            stored: The tasks' vectors ``[N, D]``; ignored where `known` is False.
            known: Whether the row's task has a stored vector, ``[N, 1]``.
            unadapted: Un-adapted embeddings of the same rows ``[N, D]``.
        """
        stored = tf.cast(stored, unadapted.dtype)
        return tf.where(known, unadapted + stored if self.stores_offset else stored, unadapted)

    @abc.abstractmethod
    def encode_features(self, features: Features) -> Any:
        """The block's input ``[..., F]``.

        Weights used here are shared by all tasks, and trained in the outer loop only.
        """

    @property
    @abc.abstractmethod
    def adaptable_variables(self) -> list[keras.Variable]:
        """The variables that the inner loop adapts."""

    def initial_weights(self, encoded: tf.Tensor) -> list[Any]:
        """Each task's weights before the first step, ``[T, ...]`` or `SharedWeight`.

        `encoded` is ``[T, S, F]``.
        """
        tasks = tf.shape(encoded)[:1]
        return [
            tf.broadcast_to(v, tf.concat([tasks, v.shape], 0)) for v in self.adaptable_variables
        ]

    def encode_support(
        self, encoded: tf.Tensor, label: tf.Tensor, weight: tf.Tensor
    ) -> list[tf.Tensor]:
        """The memory of the support set for other rows of the task, ``[T, ...]`` each.

        Most blocks have none: the list is empty.

        Args:
            encoded: The support rows' encoded features ``[T, S, F]``.
            label: Their labels ``[T, S]``.
            weight: Their weights ``[T, S]``, 0 for padding.
        """
        return []

    def read_support(self, encoded: tf.Tensor, memory: Sequence[Any], causal: bool) -> tf.Tensor:
        """Encoded rows ``[T, N, F]`` with their task's support set: the input of `call_adapted`.

        Args:
            encoded: Encoded rows.
            memory: The result of `encode_support`; empty if rows must not see the support set.
            causal: Whether the rows are the support rows themselves. Each row then sees only the
                rows before it.
        """
        return encoded

    @abc.abstractmethod
    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Meta embeddings ``[T, S, D]`` of encoded rows ``[T, S, F]`` with weights ``[T, ...]``."""

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """Un-adapted meta embeddings ``[N, D]`` of rows ``[N, ...]``."""
        return self.call_encoded(self.encode_features(features), training)

    @abc.abstractmethod
    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Un-adapted meta embeddings ``[N, D]`` of encoded rows ``[N, F]``."""

    def compute_output_shape(self, features_shape: Any) -> tuple[int | None, ...]:
        """``[N, D]``."""
        return (next(iter(features_shape.values()))[0], self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments.

        Raises:
            LimamlError: The subclass has further arguments, and no `get_config` of its own.
        """
        config = {**super().get_config(), "embedding_dim": self.embedding_dim}
        check_arguments(self, MetaBlock, config)
        return config


class GlobalBlock(keras.layers.Layer, abc.ABC):
    """The shared part of the network: maps all features and the meta embedding to a logit.

    A class may define three optional methods:

    - ``call_per_task(features, meta_embedding, call)``, which calls all layers with weights through
      `call`. If the whole network is adapted, the block is then computed for all tasks at once.
    - ``encode_context_once(features, once)``, if the head broadcasts a context with one row. The
      features named in `once` may have one row for all candidates. An exported ranker then
      computes their share of the context a single time per request.
    - ``linear_in(parts)``: whether the logit is linear in each of `parts` equal parts of the meta
      embedding while the others are fixed. Closed-form adaptation then calls the head only once.
    """

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds the layers by a call on a row of zeros; a subclass may use the shapes instead."""
        with tf.init_scope():
            self.call(zero_row(features_shape), tf.zeros([1, *meta_embedding_shape[1:]]))
        self.built = True

    @abc.abstractmethod
    def encode_context(self, features: Features, training: bool = False) -> Any:
        """The context, which does not depend on the meta embedding: a nest of ``[N, ...]``."""

    def summarise(self, context: Any) -> tf.Tensor:
        """The input ``[N, W]`` of a `SupportEncoder`, from the rows' context.

        By default it is all of the context's floating-point numbers, concatenated.

        Raises:
            ValueError: The context has no floating-point numbers.
        """
        parts = [
            tf.cast(tf.reshape(v, [-1, math.prod(v.shape[1:])]), self.compute_dtype)
            for v in tf.nest.flatten(context)
            if v.dtype.is_floating
        ]
        if not parts:
            raise ValueError(
                f"{self.name} computes nothing from a row without its meta embedding, so a "
                f"SupportEncoder has no input; use another global block"
            )
        return tf.concat(parts, -1)

    @abc.abstractmethod
    def head(self, context: Any, meta_embedding: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits ``[N]`` from a context and meta embeddings ``[N, D]``."""

    def head_of_parts(
        self, context: Any, parts: Sequence[tf.Tensor], rows: int | tf.Tensor
    ) -> tf.Tensor:
        """Logits from a context of ``encode_context_once`` and the parts of the meta embedding.

        Args:
            context: See `head`.
            parts: The meta embedding, as one tensor for each task definition. Its first axis has
                `rows` rows, or a single row that holds for all of them.
            rows: Number of rows ``N``.

        Returns:
            Logits ``[N]``, or ``[1]`` if nothing differs between the rows.
        """
        if len(parts) == 1:
            return self.head(context, parts[0])
        full_parts = [tf.broadcast_to(part, [rows, part.shape[-1]]) for part in parts]
        return self.head(context, tf.concat(full_parts, -1))

    def call(
        self, features: Features, meta_embedding: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        return self.head(self.encode_context(features, training), meta_embedding, training)

    def compute_output_shape(
        self, features_shape: Any, meta_embedding_shape: Any = None
    ) -> tuple[int | None, ...]:
        """``[N]``."""
        return (next(iter(features_shape.values()))[0],)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments.

        Raises:
            LimamlError: The subclass has arguments, and no `get_config` of its own.
        """
        config: dict[str, Any] = super().get_config()
        check_arguments(self, GlobalBlock, config)
        return config
