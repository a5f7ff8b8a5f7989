"""Metrics with confidence intervals, overall and by cohort."""

from tfrec_limaml.evaluation.adaptation import adaptation_losses, score_tasks, served_rows
from tfrec_limaml.evaluation.cohorts import cohorts, history_slices, task_keys
from tfrec_limaml.evaluation.evaluate import bayes_auc, measure
from tfrec_limaml.evaluation.metrics import (
    auc,
    auc_difference,
    auc_interval,
    calibration,
    calibration_curve,
    log_loss,
    per_task_auc,
)

__all__ = [
    "adaptation_losses",
    "auc",
    "auc_difference",
    "auc_interval",
    "bayes_auc",
    "calibration",
    "calibration_curve",
    "cohorts",
    "history_slices",
    "log_loss",
    "measure",
    "per_task_auc",
    "score_tasks",
    "served_rows",
    "task_keys",
]
