"""Adaptation of offsets in closed form: `LiMAML` with ``adaptation="gauss-newton"``."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.gauss_newton import gauss_newton
from tfrec_limaml.blocks.optional_methods import is_linear
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.nested_solves import NestedRows, solve_nested
from tfrec_limaml.models.outer_step import Samples


def solve_offsets(
    model: Any, rows: Any, support: Samples, steps: int, training: bool
) -> AdaptedTasks:
    """Computes the mode of each task's offset, or offsets if task definitions are nested.

    Args:
        model: A `LiMAML`.
        rows: The support rows, encoded.
        support: The support sets, for labels and weights.
        steps: Number of Gauss-Newton steps; with 0 the offsets keep their initial values.
        training: Whether to apply dropout and to ignore `LiMAML.adaptation_strength`.
    """
    precision = model.precision()
    precision /= tf.cast(model.strength(training), precision.dtype)
    if model.meta_block.nested_definitions:
        return _solve_nested(model, rows, support, steps, precision, training)
    mean = model.prior_mean(rows, support)
    tasks, width = tf.shape(rows.encoded)[0], rows.encoded.shape[-1]
    zero = tf.zeros([tasks, width], precision.dtype)  # tasks may have no rows
    start = zero if mean is None else mean
    unadapted = []
    if not steps or mean is not None:
        unadapted_outputs = model.head([zero], rows.encoded, rows, training)
        unadapted = [model.task_loss(unadapted_outputs, support)]
    if not steps:
        return AdaptedTasks([start], unadapted)

    def outputs(offset: tf.Tensor) -> tf.Tensor:
        embeddings = rows.encoded + tf.cast(offset, rows.encoded.dtype)
        return model.outputs_from(rows, embeddings, training)

    result = gauss_newton(
        outputs,
        lambda values: model.derivatives(support["label"], values),
        support["weight"],
        precision,
        steps,
        with_variance=not training,
        prior_mean=mean,
        linear=is_linear(model.global_block, 1),
    )
    losses = [*unadapted, *result.losses]
    return AdaptedTasks([result.offset], losses, variance=result.variance)


def _solve_nested(
    model: Any, rows: Any, support: Samples, sweeps: int, precision: tf.Tensor, training: bool
) -> AdaptedTasks:
    label, weight = support["label"], support["weight"]
    memory = model.meta_block.encode_support(rows.encoded, label, weight)
    first, *nested = rows.encoded
    offsets, losses = solve_nested(
        NestedRows(
            [first, *(encoded for encoded, _ in nested)],
            [subtasks for subtasks, _ in memory[1:]],
            tf.nest.map_structure(rows.real.spread, rows.context),
            label,
            weight,
        ),
        lambda context, embeddings: model.global_block.head(context, embeddings, training),
        model.derivatives,
        precision,
        sweeps,
        linear=is_linear(model.global_block, len(rows.encoded)),
    )
    adapted = AdaptedTasks(offsets, losses, memory)
    if not sweeps:
        unadapted_outputs = model.outputs_of_rows(adapted, rows, True, training)
        adapted = adapted._replace(losses=[model.task_loss(unadapted_outputs, support)])
    return adapted
