"""The result of ``limaml train`` as text."""

from __future__ import annotations

from typing import Any

from tfrec_limaml.wording import counted

#: Scores of several models in a result, and what these differ by.
_CHOICES = {
    "val_auc_by_prior_precision": "initial prior precision",
    "val_score_by_id_embeddings": "ID embeddings",
    "val_score_by_projection_shrinkage": "shrinkage of the projection",
}


def render(result: dict[str, Any]) -> str:
    """One line on the training, and lines on what was chosen."""
    if "refit" in result:
        return (
            f"{result['algorithm']}: {counted(result['epochs'], 'epoch')} in "
            f"{result['seconds']:.0f} s, with the settings of an earlier run; model at "
            f"{result['model']}"
        )
    auc = result["best_val_auc"]
    best = (
        "no validation AUC, because all validation labels are of one class: early stopping kept "
        "the first epoch; give `limaml prepare` other split dates or more rows"
        if auc is None
        else f"validation AUC {auc:.4f}"
    )
    best += _as_served(result)
    return (
        f"{result['algorithm']}: {counted(result['epochs'], 'epoch')} in "
        f"{result['seconds']:.0f} s{_all_models(result)}, {best}; "
        f"model at {result['model']}" + _losses(result) + _validation_choices(result)
    )


def _all_models(result: dict[str, Any]) -> str:
    """The time of all models, if several were trained of which one is kept."""
    if not any(name in result for name in _CHOICES):
        return ""
    return f" ({result['total_seconds']:.0f} s for all models that were tried)"


def _as_served(result: dict[str, Any]) -> str:
    """The validation AUC with the strength that was chosen after training."""
    strength = result.get("adaptation_strength", 1.0)
    if strength == 1.0:
        return ""
    auc = result["val_auc_by_strength"][f"{strength:g}"]
    return f" ({auc:.4f} with the adaptation strength {strength:g}, as saved)"


def _losses(result: dict[str, Any]) -> str:
    if "support_loss_before" not in result:  # a model that does not adapt tasks
        return ""
    return (
        "\nfine-tuning changed the support loss of validation tasks from "
        f"{result['support_loss_before']:.4f} to {result['support_loss_after']:.4f}"
        + _strength(result)
    )


def _strength(result: dict[str, Any]) -> str:
    if "adaptation_strength" not in result:
        return ""
    strength, note = result["adaptation_strength"], result.get("strength_note")
    if not strength and note is None:
        note = "adapting lowers the AUC of the validation tasks: the model is saved un-adapted"
    return f"; adaptation strength {strength:g}" + (f" ({note})" if note else "")


def _validation_choices(result: dict[str, Any]) -> str:
    """The options that were chosen by validation, and the score of each choice."""
    lines = [
        f"\ntried on the validation tasks, {title}: "
        + ", ".join(f"{choice} {score:.4f}" for choice, score in result[name].items())
        for name, title in _CHOICES.items()
        if name in result
    ]
    return "".join(lines)
