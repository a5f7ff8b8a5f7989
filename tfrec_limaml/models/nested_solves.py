"""Closed-form adaptation to nested task definitions: one step for each definition in turn.

A row's embedding is the concatenation of the offsets of its task and its subtasks, each added to
its block's output. All offsets have a joint posterior; its mode is computed definition by
definition, with the other definitions' offsets fixed. This is block coordinate descent, which is
exact in the limit: up to rounding, no step raises the negative log posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.axes import merge_axes, split_axes
from tfrec_limaml.adaptation.gauss_newton import gauss_newton
from tfrec_limaml.blocks.nested import Subtasks

#: Maps the global block's context ``[N, ...]`` and embeddings ``[N, D]`` to outputs ``[N]``.
Head = Callable[[Any, tf.Tensor], tf.Tensor]
Derivatives = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


class NestedRows(NamedTuple):
    """Support rows of tasks, for the definitions of a `NestedMetaBlocks` of `OffsetMetaBlock`.

    Attributes:
        unadapted: Each definition's embeddings ``[T, S, D]`` before adaptation.
        subtasks: The subtasks of each definition after the first.
        context: The global block's context of the rows, ``[T, S, ...]`` each.
        label: ``[T, S]``.
        weight: ``[T, S]``, 0 for padding.
    """

    unadapted: list[tf.Tensor]
    subtasks: list[Subtasks]
    context: Any
    label: tf.Tensor
    weight: tf.Tensor


def solve_nested(
    rows: NestedRows,
    head: Head,
    derivatives: Derivatives,
    precision: tf.Tensor,
    sweeps: int,
    linear: bool = False,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Takes one Gauss-Newton step for each definition, `sweeps` times.

    Args:
        rows: The support sets.
        head: The global block's head.
        derivatives: Maps labels and outputs ``[N, S]`` to each row's loss and its first and second
            derivative with respect to the output.
        precision: Prior precision ``[K * D]`` of the ``K`` definitions' offsets, concatenated.
        sweeps: Number of steps for each definition; with 0 the offsets are zero.
        linear: Whether outputs are linear in each definition's offset while the others are fixed.

    Returns:
        The first definition's offsets ``[T, D]`` and those of the others' subtasks ``[P, D]``, and
        the mean support losses ``[T]`` before each sweep.
    """
    precisions = tf.split(precision, len(rows.unadapted))
    offsets = [tf.zeros_like(rows.unadapted[0][:, 0], precision.dtype)]
    offsets += [
        tf.zeros([tf.size(s.owner), tf.shape(part)[0]], precision.dtype)
        for s, part in zip(rows.subtasks, precisions[1:], strict=True)
    ]
    losses = []
    for _ in range(sweeps):
        for k in range(len(offsets)):
            result = _solve_definition(rows, offsets, k, head, derivatives, precisions[k], linear)
            offsets[k] = result.offset
            if k == 0:
                losses += result.losses
    return offsets, losses


def _solve_definition(
    rows: NestedRows,
    offsets: list[tf.Tensor],
    k: int,
    head: Head,
    derivatives: Derivatives,
    precision: tf.Tensor,
    linear: bool,
) -> Any:
    """Takes one step for definition `k` from its current offsets."""
    fixed_parts = [
        part if index == k else part + tf.cast(_row_offsets(rows, offsets, index), part.dtype)
        for index, part in enumerate(rows.unadapted)
    ]
    context, label, weight = rows.context, rows.label, rows.weight
    if k:  # each subtask reads all rows of its task; rows of other subtasks have weight 0
        subtasks = rows.subtasks[k - 1]

        def gather_owners(value: tf.Tensor) -> tf.Tensor:
            return tf.gather(value, subtasks.owner)

        weight = subtasks.weights(rows.weight)
        fixed_parts, label = [gather_owners(part) for part in fixed_parts], gather_owners(label)
        context = tf.nest.map_structure(gather_owners, context)
    context = tf.nest.map_structure(merge_axes, context)

    def outputs(offset: tf.Tensor) -> tf.Tensor:
        parts = list(fixed_parts)
        parts[k] += tf.cast(offset, parts[k].dtype)
        embeddings = tf.concat(parts, -1)
        return split_axes(head(context, merge_axes(embeddings)), embeddings)

    return gauss_newton(
        outputs,
        lambda values: derivatives(label, values),
        weight,
        precision,
        steps=1,
        start=offsets[k],
        linear=linear,
    )


def _row_offsets(rows: NestedRows, offsets: list[tf.Tensor], k: int) -> tf.Tensor:
    """The offset of each row's task or subtask, broadcastable to ``[T, S, D]``; 0 for padding."""
    if k == 0:
        return offsets[0][:, None]
    number = rows.subtasks[k - 1].number
    has_subtask = tf.cast(number >= 0, offsets[k].dtype)[..., None]
    return has_subtask * tf.gather(offsets[k], tf.maximum(number, 0))
