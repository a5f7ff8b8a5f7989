"""Tries values of options that are not set, and keeps the model with the best validation score."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.training.checkpoints import CheckpointOptions
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.trained import Trained

#: Training rows at which an ID's row in the projection is halved, if the projection overfits with
#: the usual shrinkage.
STRONG_SHRINKAGE = 3000.0
#: Initial prior precisions that are tried if the chosen adaptation strength is below 1, and if it
#: is 0.
LARGE_PRECISION, LARGEST_PRECISION = 30.0, 1000.0
#: These, with the chosen strengths for which they are needed, and the folders of their checkpoints.
_PRECISIONS: tuple[tuple[float, Callable[[float], bool], str], ...] = (
    (LARGE_PRECISION, lambda strength: strength < 1.0, "large_precision"),
    (LARGEST_PRECISION, lambda strength: strength == 0.0, "largest_precision"),
)
#: Smallest fall of the gain in validation AUC that counts as overfitting of the projection.
MIN_FALL = 0.002

Model = TypeVar("Model", bound=Trained)
#: Trains one model with these options and checkpoints; its result has the ``best_val_score``.
Train = Callable[[TrainOptions, CheckpointOptions | None], Model]


def best_on_validation(
    train: Train[Model],
    options: TrainOptions,
    schema: Schema,
    checkpoints: CheckpointOptions | None,
) -> Model:
    """Trains a model for each value of the options that are not set, and keeps the best one.

    If a history feature is keyed by an ID, models with and without IDs in the global block are
    tried. If the gain of adaptation falls during training, a strong shrinkage of the projection is
    tried. The result has the scores of all of them.
    """
    if options.model.id_embeddings is not None or not _has_id_history(schema):
        return _best_shrinkage(train, options, schema, checkpoints)
    with_ids = _best_shrinkage(
        train,
        options.replace(id_embeddings=True),
        schema,
        checkpoints and checkpoints.in_folder("with_ids"),
    )
    without = train(
        options.replace(id_embeddings=False), checkpoints and checkpoints.in_folder("without_ids")
    )
    scores = {"with": _score(with_ids), "without": _score(without)}
    best = with_ids if scores["with"] >= scores["without"] else without
    best.result["val_score_by_id_embeddings"] = scores
    return best


def best_as_served(
    train: Train[Model],
    options: TrainOptions,
    checkpoints: CheckpointOptions | None,
    agree: Callable[[float], float],
) -> Model:
    """Trains models with larger prior precisions while the best one adapts tasks too much.

    A chosen adaptation strength below 1, that of training, is the sign: the shared weights were
    trained together with offsets that were too large. A second model then begins with
    `LARGE_PRECISION`. If the better of the two is not adapted at all, a third one begins with
    `LARGEST_PRECISION`, with which tasks hardly adapt in training either. The model with the best
    validation AUC as served is kept, with the scores of all.

    Args:
        train: Trains a model and chooses its adaptation strength.
        options: The options; if `prior_precision` is set, one model is trained.
        checkpoints: Checkpoints of the first model; those of the others are in subfolders.
        agree: Returns the first worker's value, so that all workers train the same models.
    """
    best = train(options, checkpoints)
    model = options.model
    solves = model.chosen_adaptation == "gauss-newton" and model.chosen_inner_steps > 0
    if not solves or model.prior_precision is not None:
        return best
    tried = {model.chosen_prior_precision: best}
    for precision, is_needed, folder in _PRECISIONS:
        if not is_needed(agree(best.result.get("adaptation_strength", 1.0))):
            break
        other = train(
            options.replace(prior_precision=precision),
            checkpoints and checkpoints.in_folder(folder),
        )
        tried[precision] = other
        best = max(best, other, key=_auc_as_served)
    if len(tried) > 1:
        best.result["val_auc_by_prior_precision"] = {
            f"{precision:g}": _auc_as_served(each) for precision, each in tried.items()
        }
    return best


def _best_shrinkage(
    train: Train[Model],
    options: TrainOptions,
    schema: Schema,
    checkpoints: CheckpointOptions | None,
) -> Model:
    usual = train(options, checkpoints)
    if not _projects_ids(options, schema) or not _gain_falls(usual):
        return usual
    strong = train(
        options.replace(projection_shrinkage=STRONG_SHRINKAGE),
        checkpoints and checkpoints.in_folder("strong_shrinkage"),
    )
    scores = {"usual": _score(usual), "strong": _score(strong)}
    best = strong if scores["strong"] > scores["usual"] else usual
    best.result["val_score_by_projection_shrinkage"] = scores
    return best


def _projects_ids(options: TrainOptions, schema: Schema) -> bool:
    """Whether IDs have rows in a projection whose shrinkage is not set."""
    model = options.model
    return (
        options.algorithm == "limaml"
        and any(feature.embedding_width for feature in schema.features)
        and model.global_block == "dot_product"
        and model.id_embeddings is not False
        and model.projection_shrinkage is None
        and model.shrinkage < STRONG_SHRINKAGE
    )


def _gain_falls(trained: Trained) -> bool:
    """Whether the gain of adaptation on the validation tasks has fallen during training.

    It must have fallen from its best epoch to each of the last two: a single epoch may be chance.
    """
    curves = trained.result["history"]
    adapted = curves["val_auc"]
    unadapted = curves.get("val_unadapted_auc", adapted)
    gains = [a - u for a, u in zip(adapted, unadapted, strict=True)]
    return max(gains) - max(gains[-2:]) >= MIN_FALL


def _has_id_history(schema: Schema) -> bool:
    """Whether a history feature is keyed by an embedded ID alone."""
    ids = {f.name for f in schema.features if f.embedding_width and f.separator is None}
    return any(len(history.keys) == 1 and history.keys[0] in ids for history in schema.history)


def _auc_as_served(trained: Trained) -> float:
    strength = trained.result["adaptation_strength"]
    return float(trained.result["val_auc_by_strength"][f"{strength:g}"])


def _score(trained: Trained) -> float:
    return float(trained.result["best_val_score"])
