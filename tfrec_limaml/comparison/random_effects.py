"""Per-task random effects: a small logistic regression for each task on top of a global score.

The classical alternative to meta-learning for personalisation: GLMix (Zhang et al., KDD 2016) fits,
for each member, L2-regularised coefficients with the global model's logit as offset.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.comparison.networks import scores
from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.comparison.rows import Rows, dense
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.models import TaskModel
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.train import train

Array = npt.NDArray[np.float64]

#: Candidate L2 penalties; the best by validation AUC is kept.
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
NEWTON_STEPS = 5


def glmix(data: Data, seed: int) -> Outcome:
    """Random effects of each task on the vanilla network's logit."""
    options = TrainOptions(algorithm="vanilla").replace(seed=seed)
    if data.epochs is not None:
        options = options.replace(epochs=data.epochs)
    model = train(data.tasks, options, task=data.task).model
    model.fine_tune = False
    logits = {"train": _logit(_train_scores(model, data))}
    logits |= {s: _logit(scores(model, data, s, False)) for s in ("validation", "test")}
    mean, deviation = _moments(dense(data.train, data.encoder))
    inputs = {
        s: (dense(getattr(data, s), data.encoder) - mean) / deviation
        for s in ("train", "validation", "test")
    }
    best = (-1.0, 0.0)
    for penalty in PENALTIES:
        adapted = _adapted(data, ("train",), "validation", logits, inputs, penalty)
        best = max(best, (auc(data.validation.label, adapted), penalty))
    adapted = _adapted(data, ("train", "validation"), "test", logits, inputs, best[1])
    return Outcome(
        1 / (1 + np.exp(-adapted)),
        best[0],
        unadapted=1 / (1 + np.exp(-logits["test"])),
        settings={"penalty": best[1]},
    )


def fit_task(inputs: Array, label: Array, offset: Array, penalty: float) -> Array:
    """Coefficients ``[F]`` of one task, by Newton's method in its dual form: rows are fewer than
    features.

    Args:
        inputs: ``[n, F]``.
        label: 0 or 1, ``[n]``.
        offset: The global logit ``[n]``.
        penalty: L2 penalty of the coefficients.
    """
    gram = inputs @ inputs.T
    dual = np.zeros(len(label))
    for _ in range(NEWTON_STEPS):
        effect = gram @ dual / penalty
        probability = 1 / (1 + np.exp(-(offset + effect)))
        curvature = np.maximum(probability * (1 - probability), 1e-4)
        target = curvature * effect + label - probability
        root = np.sqrt(curvature)
        matrix = np.eye(len(label)) + root[:, None] * gram * root / penalty
        dual = target - root * np.linalg.solve(matrix, root * (gram @ target)) / penalty
    coefficients: Array = inputs.T @ dual / penalty
    return coefficients


def _adapted(
    data: Data,
    earlier: tuple[str, ...],
    later: str,
    logits: dict[str, Array],
    inputs: dict[str, Array],
    penalty: float,
) -> Array:
    rows: Rows = getattr(data, later)
    parts = [getattr(data, s) for s in earlier]
    keys = np.concatenate([r.task_key for r in parts])
    label = np.concatenate([r.label for r in parts]).astype(np.float64)
    offset, features = (np.concatenate([part[s] for s in earlier]) for part in (logits, inputs))
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    result = logits[later].copy()
    for key in np.unique(rows.task_key):
        first, last = (np.searchsorted(sorted_keys, key, side) for side in ("left", "right"))
        history = order[first:last]
        if len(history):
            mask = rows.task_key == key
            weights = fit_task(features[history], label[history], offset[history], penalty)
            result[mask] += inputs[later][mask] @ weights
    return result


def _train_scores(model: TaskModel, data: Data) -> Array:
    """The network's probabilities of the training rows, in the order of the files."""
    parts = []
    step = 65_536
    for start in range(0, len(data.train.label), step):
        raw = {n: tf.constant(v[start : start + step]) for n, v in data.train.columns.items()}
        parts.append(model(data.encoder(raw), training=False).numpy())
    return np.concatenate(parts).astype(np.float64)


def _logit(probability: Array) -> Array:
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _moments(values: npt.NDArray[np.float32]) -> tuple[Array, Array]:
    return values.mean(0, dtype=np.float64), np.maximum(values.std(0, dtype=np.float64), 0.05)
