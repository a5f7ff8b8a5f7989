"""Nested meta blocks: one is adapted per task, others per subtask (the paper's future work).

A task definition refines another one if its key has the other's columns and more: ``(user_id,
tab)`` refines ``(user_id,)``. Records of the coarser definition then hold everything that both
need, since the further columns are features of each row. The rows of a task with equal values of
the further columns are a *subtask*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.axes import merge_axes, split_axes
from tfrec_limaml.blocks.base import MetaBlock
from tfrec_limaml.blocks.per_definition import MetaBlockPerDefinition
from tfrec_limaml.features import Features, subtask_feature


class Subtasks(NamedTuple):
    """The subtasks of a batch of support sets.

    Attributes:
        number: Subtask of each support row, int32 ``[T, S]``; -1 for padding.
        ids: Number that the rows of one subtask share, int64 ``[T, S]``.
        owner: Task of each subtask, int32 ``[P]``. There is at least one: if all rows are padding,
            a subtask of task 0 without members.
        first_row: Position of each subtask's first row in its task, int32 ``[P]``.
        count: Number of real subtasks, a scalar.
    """

    number: tf.Tensor
    ids: tf.Tensor
    owner: tf.Tensor
    first_row: tf.Tensor
    count: tf.Tensor

    @classmethod
    def from_ids(cls, ids: tf.Tensor, weight: tf.Tensor) -> Subtasks:
        """Numbers the subtasks in the order of tasks and of their first rows.

        `ids` and `weight` (0 for padding) are ``[T, S]``.
        """
        real, width = weight > 0, tf.shape(ids)[1]
        first = _first_match(ids, ids, real)
        starts = real & (first == tf.range(width))
        numbers = tf.reshape(
            tf.cumsum(tf.cast(tf.reshape(starts, [-1]), tf.int32)) - 1, tf.shape(ids)
        )
        number = tf.where(real, tf.gather(numbers, first, batch_dims=1), -1)
        positions = tf.cast(tf.where(tf.reshape(starts, [-1]))[:, 0], tf.int32)
        count = tf.size(positions)
        positions = tf.pad(positions, [[0, tf.maximum(1 - count, 0)]])
        return cls(number, ids, positions // width, positions % width, count)

    def of_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Subtask of each other row of the tasks, int32 ``[T, N]``.

        It is -1 if the support set has no row of the subtask.
        """
        real = self.number >= 0
        known = tf.reduce_any(_matches(ids, self.ids, real), -1)
        return tf.where(
            known, tf.gather(self.number, _first_match(ids, self.ids, real), batch_dims=1), -1
        )

    def members(self) -> tf.Tensor:
        """Whether each row of a subtask's task belongs to the subtask, bool ``[P, S]``."""
        return tf.gather(self.number, self.owner) == tf.range(tf.size(self.owner))[:, None]

    def weights(self, weight: tf.Tensor) -> tf.Tensor:
        """Weights ``[P, S]`` of the rows of each subtask's task, from the rows' weights ``[T, S]``:
        0 for rows of other subtasks.
        """
        return tf.gather(weight, self.owner) * tf.cast(self.members(), weight.dtype)


class SubtaskRows(NamedTuple):
    """Rows of tasks, as the input of a block that is adapted per subtask.

    Attributes:
        encoded: Encoded rows ``[T, N, F]``; None if each row has a subtask.
        number: Subtask of each row ``[T, N]``; None if nothing is adapted.
        by_subtask: All rows of the task of each subtask ``[P, N, F']``; None if nothing is
            adapted.
    """

    encoded: tf.Tensor | None
    number: tf.Tensor | None = None
    by_subtask: tf.Tensor | None = None


@keras.saving.register_keras_serializable("tfrec_limaml")
class NestedMetaBlocks(MetaBlockPerDefinition):
    """Meta blocks of a task definition and of others that refine it, adapted on one loss per task.

    The first block is adapted per task, each further block per subtask, from the same support set.
    A row's meta embedding is the concatenation of the blocks' embeddings. For a row whose subtask
    does not occur in the support set, the further block stays un-adapted. With gradient steps, a
    subtask's gradient is that of its share of the task's mean loss: subtasks with few of the task's
    rows change little. `OffsetMetaBlock`s are adapted in closed form, one definition after the
    other.

    A further block runs once for every subtask of a task, on all of the task's rows.

    Examples:
        >>> block = NestedMetaBlocks({"user": MLPMetaBlock(), "user_tab": MLPMetaBlock()})
        >>> encoder = FeatureEncoder(schema, statistics, "user", block.nested_definitions)

    Args:
        blocks: The meta block of each task definition, by name; the definition of the records
            comes first. All blocks have the same `embedding_dim`, so that one store can hold their
            embeddings.

    Raises:
        ValueError: There are fewer than two blocks, their `embedding_dim` differs, a block is
            nested itself or has a support encoder, or only some are `OffsetMetaBlock`s.
    """

    def __init__(self, blocks: Mapping[str, MetaBlock], **kwargs: Any) -> None:
        widths = {name: block.embedding_dim for name, block in blocks.items()}
        if len(blocks) < 2 or len(set(widths.values())) > 1:
            raise ValueError(
                "blocks needs two or more meta blocks with the same embedding_dim, received "
                f"embedding_dim {widths}"
            )
        if invalid := [
            name for name, block in blocks.items() if isinstance(block, NestedMetaBlocks)
        ]:
            raise ValueError(
                f"blocks may not be nested themselves, received NestedMetaBlocks for {invalid}"
            )
        if len({block.stores_offset for block in blocks.values()}) > 1:
            kinds = {name: type(block).__name__ for name, block in blocks.items()}
            raise ValueError(
                "blocks must be OffsetMetaBlocks, which are adapted in closed form, or none of "
                f"them, received {kinds}"
            )
        if invalid := [name for name, block in blocks.items() if block.support_encoder is not None]:
            raise ValueError(
                f"blocks may not have a support_encoder, received one for {invalid}; use the prior "
                "'zero'"
            )
        super().__init__(blocks, **kwargs)

    @property
    def nested_definitions(self) -> tuple[str, ...]:
        """The definitions after the first."""
        return self.definitions[1:]

    @property
    def stores_offset(self) -> bool:
        """Whether the blocks are `OffsetMetaBlock`; see `MetaBlock.stores_offset`."""
        return bool(self.blocks[0].stores_offset)

    def stored_rows(self, weights: list[Any], encoded: Any) -> tf.Tensor:
        """See `MetaBlock.stored_rows`; `encoded` comes from `read_support`."""
        if not self.stores_offset:
            return self.call_adapted(weights, encoded)
        first, *nested = encoded
        offsets = [
            SubtaskRows(
                None if rows.encoded is None else tf.zeros_like(rows.encoded),
                rows.number,
                None if rows.by_subtask is None else tf.zeros_like(rows.by_subtask),
            )
            for rows in nested
        ]
        return self.call_adapted(weights, (tf.zeros_like(first), *offsets))

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds all blocks.

        Raises:
            ValueError: The encoded features lack the subtasks of a definition.
        """
        missing = [
            name for name in self.nested_definitions if subtask_feature(name) not in features_shape
        ]
        if missing:
            raise ValueError(
                f"{self.name}: the features hold no subtasks of {missing}; make the encoder with "
                f"nested={missing}"
            )
        for block in self.blocks:
            if not block.built:
                block.build(features_shape)
        self.built = True

    def encode_features(self, features: Features) -> Any:
        """The first block's encoded rows; for each further block, its rows and subtask ids."""
        nested = zip(self.nested_definitions, self.blocks[1:], strict=True)
        pairs = [
            (block.encode_features(features), features[subtask_feature(name)])
            for name, block in nested
        ]
        return (self.blocks[0].encode_features(features), *pairs)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """The adaptable variables of all blocks, in the order of the blocks."""
        return [variable for block in self.blocks for variable in block.adaptable_variables]

    def initial_weights(self, encoded: Any) -> list[Any]:
        """The first block's weights per task, and the others' per subtask.

        `encoded` comes from `read_support`.
        """
        first, *nested = encoded
        weights = self.blocks[0].initial_weights(first)
        for block, rows in zip(self.blocks[1:], nested, strict=True):
            weights += block.initial_weights(
                rows.encoded if rows.by_subtask is None else rows.by_subtask
            )
        return weights

    def encode_support(self, encoded: Any, label: tf.Tensor, weight: tf.Tensor) -> list[Any]:
        """The first block's memory; for each further block, its subtasks and its memory of them."""
        first, *nested = encoded
        memory: list[Any] = [self.blocks[0].encode_support(first, label, weight)]
        for block, (rows, ids) in zip(self.blocks[1:], nested, strict=True):
            subtasks = Subtasks.from_ids(ids, weight)
            block_memory = block.encode_support(
                tf.gather(rows, subtasks.owner),
                tf.gather(label, subtasks.owner),
                subtasks.weights(weight),
            )
            memory.append((subtasks, block_memory))
        return memory

    def read_support(self, encoded: Any, memory: Sequence[Any], causal: bool) -> Any:
        """The first block's rows, then `SubtaskRows` for each further one."""
        first, *nested = encoded
        if not memory:
            return (
                self.blocks[0].read_support(first, [], causal),
                *(SubtaskRows(rows) for rows, _ in nested),
            )
        result = [self.blocks[0].read_support(first, memory[0], causal)]
        for block, (rows, ids), (subtasks, block_memory) in zip(
            self.blocks[1:], nested, memory[1:], strict=True
        ):
            number = subtasks.number if causal else subtasks.of_rows(ids)
            by_subtask = block.read_support(tf.gather(rows, subtasks.owner), block_memory, causal)
            result.append(SubtaskRows(None if causal else rows, number, by_subtask))
        return tuple(result)

    def call_adapted(self, weights: list[Any], encoded: Any, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        first, *nested = encoded
        counts = [len(block.adaptable_variables) for block in self.blocks]
        parts = [self.blocks[0].call_adapted(weights[: counts[0]], first, training)]
        start = counts[0]
        for block, rows, count in zip(self.blocks[1:], nested, counts[1:], strict=True):
            parts.append(_call_subtasks(block, weights[start : start + count], rows, training))
            start += count
        return tf.concat(parts, -1)

    def call_encoded(self, encoded: Any, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        first, *nested = encoded
        parts = [
            block.call_encoded(rows, training)
            for block, (rows, _) in zip(self.blocks[1:], nested, strict=True)
        ]
        return tf.concat([self.blocks[0].call_encoded(first, training), *parts], -1)


def _call_subtasks(
    block: MetaBlock, weights: list[Any], rows: SubtaskRows, training: bool
) -> tf.Tensor:
    """Meta embeddings ``[T, N, D]`` of rows with the weights of their subtasks.

    Rows without a subtask are un-adapted.
    """
    unadapted = (
        None
        if rows.encoded is None
        else split_axes(block.call_encoded(merge_axes(rows.encoded), training), rows.encoded)
    )
    if rows.number is None or rows.by_subtask is None:
        return unadapted
    number, position = tf.maximum(rows.number, 0), tf.range(tf.shape(rows.number)[1])
    places = tf.stack([number, tf.broadcast_to(position, tf.shape(number))], -1)
    adapted = tf.gather_nd(block.call_adapted(weights, rows.by_subtask, training), places)
    if unadapted is None:
        return adapted
    return tf.where(rows.number[..., None] >= 0, adapted, unadapted)


def _matches(ids: tf.Tensor, support_ids: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """Whether each row ``[T, N]`` has the id of each real support row: bool ``[T, N, S]``."""
    return (ids[:, :, None] == support_ids[:, None]) & real[:, None]


def _first_match(ids: tf.Tensor, support_ids: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    return tf.argmax(tf.cast(_matches(ids, support_ids, real), tf.int8), -1, tf.int32)
