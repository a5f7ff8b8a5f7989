"""Measures the effect of adaptation: scores in all forms, support losses before and after."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import OTHER_ROW, SIDE, subtask_feature
from tfrec_limaml.models import JointLiMAML, LiMAML, TaskModel
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.outer_step import Samples
from tfrec_limaml.models.task_model import TaskBatch
from tfrec_limaml.wording import counted

Rows = dict[str, Array]
_SIDE = "side:"


def adaptation_losses(model: TaskModel, dataset: tf.data.Dataset) -> dict[str, Any]:
    """Mean support loss over tasks, before and after `fine_tune_steps` steps of fine-tuning.

    Warns if it rose: the inner learning rate is too large, or training failed.

    Args:
        model: A trained model.
        dataset: Batches of tasks.

    Returns:
        ``support_loss_before``, ``support_loss_after`` (NaN if no task has support) and
        ``support_loss_rose``, the share of tasks whose loss rose.
    """

    return _summary(model, _collect(dataset, lambda batch: _losses(model, batch["support"])[1]))


class Scores(NamedTuple):
    """All scores of a model's query rows; arrays ``[N]`` as `TaskModel.predict_step` gives them.

    Attributes:
        unadapted: With the shared weights.
        adapted: After `fine_tune_steps` steps on each task's support set.
        served: See `served_rows`; None for models without stored embeddings.
        by_side: For a model of two definitions, by definition: with the stored offsets of that side
            alone.
        losses: See `adaptation_losses`.
    """

    unadapted: Rows
    adapted: Rows
    served: Rows | None
    losses: dict[str, Any]
    by_side: Mapping[str, Rows] = {}


def score_tasks(model: TaskModel, dataset: tf.data.Dataset) -> Scores:
    """Scores query rows in all forms, in one pass over the records.

    Args:
        model: A trained model; its `fine_tune` has no effect.
        dataset: Batches of tasks.
    """

    def step(batch: TaskBatch) -> dict[str, Any]:
        support, query = batch["support"], batch["query"]
        adapted, losses = _losses(model, support)
        outputs = {
            "unadapted": model.outputs_of(model.adapt_tasks(support, None), query),
            "adapted": model.outputs_of(adapted, query),
        }
        if isinstance(model, JointLiMAML):
            outputs["served"] = outputs["adapted"]
            outputs |= _one_sided(model, support, query)
        elif isinstance(model, LiMAML):
            outputs["served"] = served_outputs(model, support, query, adapted)
        rows = {name: model.query_rows(batch, values) for name, values in outputs.items()}
        return {"losses": losses, **rows}

    parts = _collect(dataset, step)
    losses = _summary(model, parts["losses"])
    by_side = {n.partition(":")[2]: rows for n, rows in parts.items() if n.startswith(_SIDE)}
    return Scores(parts["unadapted"], parts["adapted"], parts.get("served"), losses, by_side)


def _one_sided(model: JointLiMAML, support: Samples, query: Samples) -> dict[str, tf.Tensor]:
    """Outputs ``[T, Q]`` with the offsets of either side alone, by `_SIDE` and definition."""
    features = query["features"]
    without_others = {OTHER_ROW: tf.zeros_like(features[OTHER_ROW])}
    no_others_known = {OTHER_ROW: tf.zeros_like(support["features"][OTHER_ROW])}
    adapted = model.adapt_tasks(
        {**support, "features": {**support["features"], **no_others_known}}, model.fine_tune_steps
    )
    zero_offsets = AdaptedTasks([tf.zeros_like(weight) for weight in adapted.weights])
    outputs = [
        model.outputs_of(adapted, {**query, "features": {**features, **without_others}}),
        model.outputs_of(zero_offsets, query),
    ]
    is_first = tf.reduce_max(features[SIDE]) == 0
    first, second = (tf.where(is_first, *pair) for pair in (outputs, outputs[::-1]))
    return {
        f"{_SIDE}{name}": values
        for name, values in zip(model.meta_block.definitions, (first, second), strict=True)
    }


def _losses(model: TaskModel, support: Samples) -> tuple[AdaptedTasks, dict[str, tf.Tensor]]:
    """Adapted tasks, and the support losses of those with support before and after."""
    adapted = model.adapt_tasks(support, model.fine_tune_steps)
    after = model.task_loss(model.outputs_of(adapted, support), support)
    before = adapted.losses[0] if adapted.losses else after
    has_support = tf.reduce_any(support["weight"] > 0, -1)
    losses = (("before", before), ("after", after))
    return adapted, {name: tf.boolean_mask(v, has_support) for name, v in losses}


def _summary(model: TaskModel, by_task: Rows) -> dict[str, Any]:
    """See `adaptation_losses`."""
    if not len(by_task["before"]):
        return {
            "support_loss_before": float("nan"),
            "support_loss_after": float("nan"),
            "support_loss_rose": float("nan"),
        }
    before, after = (
        float(np.mean(by_task[name], dtype=np.float64)) for name in ("before", "after")
    )
    if not after <= before:
        gradient = not (isinstance(model, LiMAML) and model.adaptation == "gauss-newton")
        remedy = (
            f"at inner_learning_rate={model.inner_learning_rate:g}; lower inner_learning_rate and "
            "train again"
            if gradient and model.fine_tune_steps
            else "in closed form or by the support encoder; train for longer, or use prior='zero'"
        )
        warnings.warn(
            f"fine-tuning raised the support loss: {before:.4f} before and {after:.4f} after "
            f"{counted(model.fine_tune_steps, 'step')} {remedy}",
            stacklevel=2,
        )
    has_risen = ~(by_task["after"] <= by_task["before"])
    return {
        "support_loss_before": before,
        "support_loss_after": after,
        "support_loss_rose": float(has_risen.mean()),
    }


def served_rows(model: LiMAML, dataset: tf.data.Dataset) -> Rows:
    """Scores the query rows as in production, with one stored embedding per task.

    Rows of a task without support have no stored embedding; the un-adapted meta block reads their
    features, as the exported ranker does.

    Args:
        model: A trained model.
        dataset: Batches of tasks.

    Returns:
        Arrays ``[N]`` as `TaskModel.predict_step` gives them.
    """
    return _collect(
        dataset,
        lambda batch: model.query_rows(
            batch, served_outputs(model, batch["support"], batch["query"])
        ),
    )


def served_outputs(
    model: LiMAML, support: Samples, query: Samples, adapted: AdaptedTasks | None = None
) -> tf.Tensor:
    """Logits ``[T, Q]`` of query samples with the embeddings that the job would store.

    `adapted` is the result of `adapt_tasks`, if it is already known.
    """
    stored = model.task_embeddings(support, adapted)
    rows = model.real_rows(query["features"], query["weight"])
    features = rows.take_features(query["features"])
    unadapted = rows.spread(model.meta_block(features))
    definitions = model.meta_block.nested_definitions
    first, *nested_unadapted = tf.split(unadapted, 1 + len(definitions), -1)
    has_support = tf.reduce_any(support["weight"] > 0, -1)[:, None, None]
    block = model.meta_block
    parts = [block.from_stored(stored.embedding[:, None], has_support, first)]
    for definition, (subtasks, embedding), part in zip(
        definitions, stored.nested, nested_unadapted, strict=True
    ):
        number = subtasks.of_rows(query["features"][subtask_feature(definition)])
        by_row = tf.gather(embedding, tf.maximum(number, 0))
        parts.append(block.from_stored(by_row, number[..., None] >= 0, part))
    return rows.spread(model.global_block(features, rows.take(tf.concat(parts, -1))))


def _collect(
    dataset: tf.data.Dataset, step: Callable[[TaskBatch], Mapping[str, Any]]
) -> dict[str, Any]:
    function = tf.function(
        step, input_signature=[dataset.element_spec], autograph=False
    )  # one trace for batches of any size
    parts = [tf.nest.map_structure(lambda v: v.numpy(), function(batch)) for batch in dataset]
    if not parts:
        raise LimamlError(
            "the records to score hold no task: this split has no rows (see data_card.json); "
            "choose another split, or build records with other dates"
        )
    result: dict[str, Any] = tf.nest.map_structure(lambda *v: np.concatenate(v), *parts)
    return result
