"""Per-task random effects: a small logistic regression for each task on top of a global score.

The classical alternative to meta-learning for personalisation: for each member, GLMix fits
L2-regularised coefficients, with the global model's logit as a fixed term. Source: Zhang et al.,
"GLMix: Generalized Linear Mixed Models for Large-Scale Response Prediction", KDD 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.adaptation.gauss_newton import MINIMUM_CURVATURE
from tfrec_limaml.arrays import Array, Floats, Integers
from tfrec_limaml.comparison.networks import scores
from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.comparison.rows import Rows, dense, encoded_parts
from tfrec_limaml.diagnosis.random_intercept import logit, sigmoid
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.models import TaskModel
from tfrec_limaml.tasks.folder import PARTS
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.train import train

#: Candidate L2 penalties of the coefficients, and then of the intercept (infinite: none), from the
#: largest; the best by validation AUC are kept.
PENALTIES = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0)
INTERCEPT_PENALTIES = (np.inf, 10.0, 3.0, 1.0, 0.3)
_FIRST_INTERCEPT_PENALTY = 3.0
NEWTON_STEPS = 30
#: Smallest deviation that a feature is divided by: one that hardly varies would get huge values.
_MINIMUM_DEVIATION = 0.05


def glmix(data: Data, seed: int) -> Outcome:
    """Random effects of each task on the vanilla network's logit."""
    options = TrainOptions(algorithm="vanilla").replace(seed=seed)
    if data.epochs is not None:
        options = options.replace(epochs=data.epochs)
    model = train(data.tasks, options, task=data.task).model
    model.fine_tune = False
    logits = {"train": logit(_train_scores(model, data))}
    logits |= {s: logit(scores(model, data, s, False)) for s in ("validation", "test")}
    mean, deviation = _moments(dense(data.train, data.encoder))
    inputs = {s: (dense(getattr(data, s), data.encoder) - mean) / deviation for s in PARTS}
    rows = {s: getattr(data, s) for s in PARTS}
    return random_effects(rows, logits, inputs)


def random_effects(
    rows: Mapping[str, Rows], logits: Mapping[str, Floats], inputs: Mapping[str, Floats]
) -> Outcome:
    """Random effects of each task on a global score, under the best penalties on validation rows.

    Args:
        rows: Rows by split: train, validation and test.
        logits: Global logits ``[N]`` by split.
        inputs: Standardised features ``[N, F]`` by split.
    """

    def validation_auc(penalty: float, intercept: float) -> float:
        penalties = penalty, intercept
        adapted = _adapted(rows, ("train",), "validation", logits, inputs, penalties)
        return auc(rows["validation"].label, adapted)

    penalty, _ = _best(PENALTIES, lambda p: validation_auc(p, _FIRST_INTERCEPT_PENALTY))
    intercept, best_auc = _best(INTERCEPT_PENALTIES, lambda p: validation_auc(penalty, p))
    penalties = penalty, intercept
    adapted = _adapted(rows, ("train", "validation"), "test", logits, inputs, penalties)
    return Outcome(
        sigmoid(adapted),
        best_auc,
        unadapted=sigmoid(logits["test"]),
        settings={
            "penalty": penalty,
            "intercept_penalty": None if np.isinf(intercept) else intercept,
        },
    )


def _best(penalties: Sequence[float], score: Callable[[float], float]) -> tuple[float, float]:
    """The penalty with the best score, and that score.

    The search ends after two penalties in a row that are no better: smaller ones overfit more.
    """
    best, best_score, worse = penalties[0], score(penalties[0]), 0
    for penalty in penalties[1:]:
        value = score(penalty)
        if value > best_score:
            best, best_score, worse = penalty, value, 0
        else:
            worse += 1
        if worse == 2:
            break
    return best, best_score


def with_intercept(inputs: Floats, penalty: float, intercept_penalty: float) -> Floats:
    """The inputs with a constant for the intercept, ``[n, F + 1]``.

    Its coefficient under `penalty` has the prior of an intercept under `intercept_penalty`.
    """
    constant = np.full((len(inputs), 1), np.sqrt(penalty / intercept_penalty))
    return np.concatenate([inputs, constant], 1)


def fit_task(
    inputs: Floats, label: Floats, offset: Floats, penalty: float, weight: Floats | None = None
) -> Floats:
    """Coefficients ``[F]`` of one task, by Newton's method.

    A step that raises the objective is halved, until one lowers it or the coefficients stand still.

    Args:
        inputs: ``[n, F]``.
        label: 0 or 1, ``[n]``.
        offset: The global logit ``[n]``.
        penalty: L2 penalty of the coefficients.
        weight: Weights of the rows ``[n]``; 1 by default.
    """
    weight = np.ones(len(label)) if weight is None else weight
    gram = inputs @ inputs.T if len(inputs) < inputs.shape[1] else None

    def objective(coefficients: Floats) -> float:
        logit = offset + inputs @ coefficients
        loss = float(weight @ (np.logaddexp(0, logit) - label * logit))
        return loss + 0.5 * penalty * float(coefficients @ coefficients)

    coefficients = np.zeros(inputs.shape[1])
    value = objective(coefficients)
    for _ in range(NEWTON_STEPS):
        effect = inputs @ coefficients
        probability = sigmoid(offset + effect)
        curvature = weight * np.maximum(probability * (1 - probability), MINIMUM_CURVATURE)
        target = curvature * effect + weight * (label - probability)
        step = _minimum(inputs, gram, curvature, target, penalty) - coefficients
        scale, lower = 1.0, objective(coefficients + step)
        while lower > value and scale > 1e-4:
            scale /= 2
            lower = objective(coefficients + scale * step)
        if lower > value:
            break
        gained, coefficients, value = value - lower, coefficients + scale * step, lower
        if gained < 1e-9 * (1 + abs(value)):  # this step has made the rest quadratically small
            break
    return coefficients


def _minimum(
    inputs: Floats, gram: Floats | None, curvature: Floats, target: Floats, penalty: float
) -> Floats:
    """The minimum ``[F]`` of the objective's quadratic form.

    Solves equations of as many unknowns as there are features, or rows if `gram`, the products of
    the rows ``[n, n]``, is given. That is the dual form, by Woodbury's identity.
    """
    if gram is None:
        matrix = inputs.T @ (curvature[:, None] * inputs) + penalty * np.eye(inputs.shape[1])
        minimum = np.linalg.solve(matrix, inputs.T @ target)
    else:
        root = np.sqrt(curvature)
        matrix = root[:, None] * gram * root + penalty * np.eye(len(gram))
        dual = target - root * np.linalg.solve(matrix, root * (gram @ target))
        minimum = inputs.T @ dual / penalty
    return minimum.astype(np.float64, copy=False)


def _adapted(
    rows: Mapping[str, Rows],
    earlier: tuple[str, ...],
    later: str,
    logits: Mapping[str, Floats],
    inputs: Mapping[str, Floats],
    penalties: tuple[float, float],
) -> Floats:
    """Logits of the later rows with random effects estimated on the earlier ones.

    `penalties` are those of the coefficients and of the intercept.
    """
    inputs = {s: with_intercept(inputs[s], *penalties) for s in (*earlier, later)}
    later_keys = rows[later].task_key
    parts = [rows[s] for s in earlier]
    keys = np.concatenate([r.task_key for r in parts])
    label, weight = (
        np.concatenate([getattr(r, name) for r in parts]).astype(np.float64)
        for name in ("label", "weight")
    )
    offset, features = (np.concatenate([part[s] for s in earlier]) for part in (logits, inputs))
    rows_of, later_rows_of = _rows_by_key(keys), _rows_by_key(later_keys)
    result = logits[later].copy()
    for key, later_rows in later_rows_of.items():
        history = rows_of.get(key)
        if history is not None:
            coefficients = fit_task(
                *(features[history], label[history], offset[history], penalties[0]),
                weight[history],
            )
            result[later_rows] += inputs[later][later_rows] @ coefficients
    return result


def _rows_by_key(keys: Array) -> dict[Any, Integers]:
    """The rows of each key."""
    order = np.argsort(keys, kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    return dict(zip(distinct, np.split(order, starts[1:]), strict=True))


def _train_scores(model: TaskModel, data: Data) -> Floats:
    """The network's probabilities of the training rows, in the order of the files."""
    parts = encoded_parts(data.train, data.encoder)
    scores_of_parts = [model(encoded, training=False).numpy() for encoded in parts]
    return np.concatenate(scores_of_parts).astype(np.float64)


def _moments(values: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    deviation = values.std(0, dtype=np.float64)
    return values.mean(0, dtype=np.float64), np.maximum(deviation, _MINIMUM_DEVIATION)
