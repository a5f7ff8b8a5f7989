"""Chooses how far a trained model adapts, on validation tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import Z_95, auc, auc_difference
from tfrec_limaml.models import TaskModel

#: Strengths that are tried; 0 does not adapt.
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Minimum number of tasks with query rows for a choice.
MIN_VALIDATION_TASKS = 30
#: Tasks are not adapted if the 95 % interval of the gain in AUC contains 0 and ends below this.
SMALL_GAIN = 0.002


def choose_adaptation_strength(
    model: TaskModel,
    validation: tf.data.Dataset,
    strengths: Sequence[float] = STRENGTHS,
    changed: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Sets `model.adaptation_strength` to the strength with the best validation AUC.

    The strength of training, 1, is kept, except in two cases: the best strength is better by more
    than a standard error of the paired difference (clustered by task), or strength 0 is better than
    1. The best strength is then chosen. If the 95 % interval of the chosen strength's gain over not
    adapting contains zero and ends below `SMALL_GAIN`, tasks are not adapted: such a gain may be
    chance, and later rows differ from the validation rows.

    Args:
        model: A trained model for binary labels.
        validation: Batches of tasks with keys (``task_dataset(..., with_keys=True)``).
        strengths: Candidates; 1 is always added.
        changed: Called after the model's strength has been set to a candidate; see
            `rows_by_strength`.

    Returns:
        ``adaptation_strength``, ``val_auc_by_strength`` and a ``strength_note`` if nothing could be
        chosen or the gain was too small.

    Raises:
        LimamlError: The dataset has no task keys.
    """
    if "task_key" not in validation.element_spec:
        raise LimamlError(
            "validation must have task keys: task_dataset(..., with_keys=True); received the "
            f"entries {sorted(validation.element_spec)}"
        )
    rows = rows_by_strength(model, validation, sorted({*strengths, 1.0}), changed)
    scores = {
        strength: predictions["probability"]
        for strength, predictions in rows.items()
        if strength == 1.0 or np.isfinite(predictions["probability"]).all()
    }
    label = rows[1.0]["label"]
    tasks = np.unique(rows[1.0]["task_key"], return_inverse=True)[1]
    by_strength = {strength: auc(label, score) for strength, score in scores.items()}
    result: dict[str, Any] = {
        "adaptation_strength": 1.0,
        "val_auc_by_strength": {f"{s:g}": value for s, value in by_strength.items()},
    }
    if len(np.unique(tasks)) < MIN_VALIDATION_TASKS or np.isnan(by_strength[1.0]):
        result["strength_note"] = (
            f"fewer than {MIN_VALIDATION_TASKS} validation tasks, or labels of one class: the "
            "strength of training is kept"
        )
        return result
    chosen = _choose(scores, by_strength, label, tasks)
    if chosen and 0.0 in scores and _is_small(scores[chosen], scores[0.0], label, tasks):
        chosen = 0.0
        result["strength_note"] = (
            "adapting gains no more on the validation rows than chance explains: the 95 % interval "
            f"of the gain contains zero and ends below {SMALL_GAIN:g} AUC"
        )
    model.adaptation_strength = result["adaptation_strength"] = chosen
    return result


def rows_by_strength(
    model: TaskModel,
    dataset: tf.data.Dataset,
    strengths: Sequence[float],
    changed: Callable[[], None] | None = None,
) -> dict[float, dict[str, Array]]:
    """The model's query predictions with each strength; see `TaskModel.predict_step`.

    Args:
        model: A trained model; afterwards its strength is 1.
        dataset: Batches of tasks. It is read once, or with `changed` once for each strength.
        strengths: The strengths; all positive ones share one trace.
        changed: Called after the model's strength has been set to each of them.
    """
    score = _scorer(model, dataset.element_spec)
    parts: dict[float, list[dict[str, Array]]] = {strength: [] for strength in strengths}
    model.adaptation_strength = 1.0  # with 0, the adaptation would not be traced
    try:
        for group in [strengths] if changed is None else [[strength] for strength in strengths]:
            if changed is not None:
                (model.adaptation_strength,) = group
                changed()
            for batch in dataset:
                for strength in group:
                    parts[strength].append(score(batch, strength))
    finally:
        model.adaptation_strength = 1.0
    return {
        strength: {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
        for strength, batches in parts.items()
    }


def _scorer(model: TaskModel, spec: Any) -> Callable[[Any, float], dict[str, Array]]:
    """A function that predicts the query rows of a batch with a strength."""

    def unadapted(batch: Any) -> dict[str, tf.Tensor]:
        return rows(batch, None)

    def adapted(batch: Any, strength: tf.Tensor) -> dict[str, tf.Tensor]:
        with model.traced_strength(strength):
            return rows(batch, model.fine_tune_steps)

    def rows(batch: Any, steps: int | None) -> dict[str, tf.Tensor]:
        tasks = model.adapt_tasks(batch["support"], steps)
        return model.query_rows(batch, model.outputs_of(tasks, batch["query"]))

    number = tf.TensorSpec([], model.variable_dtype)
    score_unadapted = tf.function(unadapted, input_signature=[spec], autograph=False)
    score_adapted = tf.function(adapted, input_signature=[spec, number], autograph=False)

    def score(batch: Any, strength: float) -> dict[str, Array]:
        if not strength:
            return {name: value.numpy() for name, value in score_unadapted(batch).items()}
        values = score_adapted(batch, tf.constant(strength, number.dtype))
        return {name: value.numpy() for name, value in values.items()}

    return score


def _choose(
    scores: Mapping[float, Array], aucs: Mapping[float, float], label: Array, tasks: Array
) -> float:
    best = max(aucs, key=lambda strength: aucs[strength])
    value, low, _ = auc_difference(label, scores[best], scores[1.0], tasks)
    better = value > (value - low) / Z_95
    return best if better or aucs.get(0.0, -1.0) > aucs[1.0] else 1.0


def _is_small(score: Array, unadapted: Array, label: Array, tasks: Array) -> bool:
    """Whether the interval of the gain over not adapting contains 0 and ends below `SMALL_GAIN`."""
    _, low, high = auc_difference(label, score, unadapted, tasks)
    return low <= 0.0 and high < SMALL_GAIN
