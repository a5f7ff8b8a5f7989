"""The embeddings and losses that the embedding job stores for a batch of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.pooling import pool
from tfrec_limaml.blocks.nested import Subtasks
from tfrec_limaml.features import subtask_feature
from tfrec_limaml.models.outer_step import Samples


class SubtaskEmbeddings(NamedTuple):
    """The stored embeddings of one nested task definition.

    Attributes:
        subtasks: The subtasks of the batch.
        embedding: Meta embeddings ``[P, D]`` of the subtasks.
    """

    subtasks: Subtasks
    embedding: tf.Tensor


class TaskEmbeddings(NamedTuple):
    """The stored embeddings and losses of a batch of tasks.

    Attributes:
        embedding: Meta embeddings ``[T, D]``, or offsets if the meta block stores offsets.
        loss_before: Mean support losses ``[T]`` before adaptation.
        loss_after: Mean support losses ``[T]`` after adaptation.
        variance: Posterior variances ``[T, D]`` of offsets; None without Gauss-Newton steps.
        nested: One entry for each nested task definition of the meta block.
    """

    embedding: tf.Tensor
    loss_before: tf.Tensor
    loss_after: tf.Tensor
    nested: tuple[SubtaskEmbeddings, ...] = ()
    variance: tf.Tensor | None = None


def subtask_embeddings(
    definitions: Sequence[str], embeddings: Sequence[tf.Tensor], support: Samples, pooling: str
) -> tuple[SubtaskEmbeddings, ...]:
    """Meta embeddings of the subtasks, pooled over the samples of each.

    Args:
        definitions: Nested task definitions.
        embeddings: For each definition, one embedding per support row, ``[T, S, D]``.
        support: The support sets.
        pooling: See `LiMAML`.
    """
    result = []
    for definition, row_embeddings in zip(definitions, embeddings, strict=True):
        weight = support["weight"]
        subtasks = Subtasks.from_ids(support["features"][subtask_feature(definition)], weight)
        weights = subtasks.weights(weight)
        pooled = pool(tf.gather(row_embeddings, subtasks.owner), weights, pooling)
        result.append(SubtaskEmbeddings(subtasks, pooled))
    return tuple(result)
