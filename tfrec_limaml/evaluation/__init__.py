"""Metrics with confidence intervals, overall and by cohort."""

from tfrec_limaml.evaluation.evaluate import bayes_auc, evaluate_tasks, measure
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
    "auc",
    "auc_difference",
    "auc_interval",
    "bayes_auc",
    "calibration",
    "calibration_curve",
    "evaluate_tasks",
    "log_loss",
    "measure",
    "per_task_auc",
]
