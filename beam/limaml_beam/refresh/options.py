"""Limits of the daily job: one set of defaults for Python and the command line."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of a healthy run.

    Attributes:
        min_count_ratio, max_count_ratio: Tasks, relative to the run that is published.
        min_finite: Share of adapted tasks whose embedding is finite.
        min_norm_ratio, max_norm_ratio: Mean length of the vectors, relative to the published run of
            the same model.
        max_drift: Root mean square change of a task's vector, relative to the published vectors'
            length; same model.
        min_loss_improvement: Share by which adaptation lowers the mean loss on the tasks' own rows.
        max_filled_increase: Share of rows in which a feature is filled, beyond that of the model's
            training data.
        max_unknown_increase: Share of rows whose key a table lacks, beyond that of the training
            data.
        max_age_increase_days: Age of the newest row, beyond that of the published run's.
        min_rows_per_day_ratio, max_rows_per_day_ratio: Rows per day, relative to the published run.
    """

    min_count_ratio: float = 0.8
    max_count_ratio: float = 1.5
    min_finite: float = 0.99
    min_norm_ratio: float = 0.5
    max_norm_ratio: float = 2.0
    max_drift: float = 1.0
    min_loss_improvement: float = 0.0
    max_filled_increase: float = 0.2
    max_unknown_increase: float = 0.2
    max_age_increase_days: float = 0.9
    min_rows_per_day_ratio: float = 0.5
    max_rows_per_day_ratio: float = 2.0
