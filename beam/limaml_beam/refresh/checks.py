"""Checks between a finished run of the embedding job and its publication."""

from __future__ import annotations

import dataclasses
from typing import Any

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.embedding_statistics import drift
from tfrec_limaml.errors import LimamlError


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
    """

    min_count_ratio: float = 0.8
    max_count_ratio: float = 1.5
    min_finite: float = 0.99
    min_norm_ratio: float = 0.5
    max_norm_ratio: float = 2.0
    max_drift: float = 1.0
    min_loss_improvement: float = 0.0


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured value and the limits that it must lie between."""

    name: str
    value: float
    minimum: float
    maximum: float

    @property
    def passed(self) -> bool:
        """Whether the value lies within its limits; NaN does not."""
        return bool(self.minimum <= self.value <= self.maximum)

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}, allowed {self.minimum:.4g} to {self.maximum:.4g}"


def check_run(
    folder: str,
    report: dict[str, Any],
    previous: str | None,
    reference: dict[str, Any] | None,
    limits: Thresholds,
) -> list[Check]:
    """Measures a finished run against the published one.

    Args:
        folder: Output of the run.
        report: Its report, with ``statistics`` from `describe`.
        previous: Output of the published run, where there is one.
        reference: Its report.
        limits: The thresholds.

    Returns:
        Every check that could be made; nothing is compared across models but the number of tasks.
    """
    adapted = report["embedded"] + sum(report["dead_letters"].values())
    not_finite = report["dead_letters"].get(tables.NOT_FINITE, 0)
    checks = [
        Check(
            "share of finite embeddings", 1.0 - not_finite / max(adapted, 1), limits.min_finite, 1.0
        )
    ]
    improvement = report["statistics"]["loss_improvement"]
    if improvement is not None:
        checks.append(Check("loss improvement", improvement, limits.min_loss_improvement, 1.0))
    if previous is None or reference is None:
        return checks
    ratio = report["rows"] / reference["rows"]
    checks.append(
        Check(
            "number of tasks relative to the published run",
            ratio,
            limits.min_count_ratio,
            limits.max_count_ratio,
        )
    )
    if report["manifest_digest"] == reference["manifest_digest"]:
        old_norm = reference["statistics"]["mean_norm"]
        norms = report["statistics"]["mean_norm"] / old_norm if old_norm else float("inf")
        checks.append(
            Check(
                "mean norm relative to the published run",
                norms,
                limits.min_norm_ratio,
                limits.max_norm_ratio,
            )
        )
        checks.append(
            Check(
                "drift from the published vectors", drift(previous, folder), 0.0, limits.max_drift
            )
        )
    return checks


def require(checks: list[Check]) -> None:
    """Raises `LimamlError` naming every check that failed."""
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise LimamlError(
            f"not published: {'; '.join(failed)}. Mend the cause, or pass wider limits if the "
            "change is meant"
        )
