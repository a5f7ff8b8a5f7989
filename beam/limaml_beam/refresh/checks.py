"""Checks between a finished run of the embedding job and its publication."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.embedding_statistics import drift
from limaml_beam.refresh import days
from limaml_beam.refresh.options import Thresholds
from tfrec_limaml.errors import LimamlError

#: Share of filled values or unknown keys that is too large without any reference.
MAX_SHARE_WITHOUT_REFERENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured value and its limits.

    Attributes:
        detail: What was counted, for messages.
        remedy: What to do if the value is outside of the limits.
        limits: Fields of `Thresholds` that set `minimum` and `maximum`; "" for a constant.
    """

    name: str
    value: float
    minimum: float
    maximum: float
    detail: str = ""
    remedy: str = ""
    limits: tuple[str, str] = ("", "")

    @property
    def option(self) -> str:
        """The option of `limaml refresh` for the limit that the value is outside of; "" if none."""
        name = self.limits[self.value > self.maximum]
        return f"--{name.replace('_', '-')}" if name else ""

    @property
    def passed(self) -> bool:
        """Whether the value is within its limits; NaN does not."""
        return bool(self.minimum <= self.value <= self.maximum)

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        remedy = f": {self.remedy}" if self.remedy else ""
        return (
            f"{self.name} is {self.value:.4g}{detail}, allowed {self.minimum:.4g} to "
            f"{self.maximum:.4g}{remedy}"
        )


def check_run(
    folder: str,
    report: dict[str, Any],
    previous: str | None,
    reference: dict[str, Any] | None,
    limits: Thresholds,
) -> list[Check]:
    """Compares a finished run with the published one.

    Args:
        folder: Output of the run.
        report: Its report, with ``statistics`` from `describe`.
        previous: Output of the published run, if there is one.
        reference: Its report.
        limits: The thresholds.

    Returns:
        All checks that apply; across models only the number of tasks is compared.
    """
    adapted = report["embedded"] + sum(report[tables.DEAD_LETTERS].values())
    not_finite = report[tables.DEAD_LETTERS].get(tables.NOT_FINITE, 0)
    checks = [
        Check(
            "share of finite embeddings",
            1.0 - not_finite / max(adapted, 1),
            limits.min_finite,
            1.0,
            limits=("min_finite", ""),
        )
    ]
    improvement = report["statistics"]["loss_improvement"]
    if improvement is not None:
        least = limits.min_loss_improvement
        names = ("min_loss_improvement", "")
        checks.append(Check("loss improvement", improvement, least, 1.0, limits=names))
    if previous is not None and reference is not None:
        checks += _checks_against(previous, reference, folder, report, limits)
    return checks


def _checks_against(
    previous: str,
    reference: dict[str, Any],
    folder: str,
    report: dict[str, Any],
    limits: Thresholds,
) -> list[Check]:
    """The checks that compare a run with the published one; see `check_run`."""
    ratio = report["rows"] / reference["rows"]
    checks = [
        Check(
            "number of tasks relative to the published run",
            ratio,
            limits.min_count_ratio,
            limits.max_count_ratio,
            limits=("min_count_ratio", "max_count_ratio"),
        )
    ]
    if report["manifest_digest"] == reference["manifest_digest"]:
        old_norm = reference["statistics"]["mean_norm"]
        norms = report["statistics"]["mean_norm"] / old_norm if old_norm else float("inf")
        checks.append(
            Check(
                "mean norm relative to the published run",
                norms,
                limits.min_norm_ratio,
                limits.max_norm_ratio,
                limits=("min_norm_ratio", "max_norm_ratio"),
            )
        )
        checks.append(
            Check(
                "drift from the published vectors",
                drift(previous, folder),
                0.0,
                limits.max_drift,
                limits=("", "max_drift"),
            )
        )
    return checks


def check_input(
    quality: Mapping[str, Any],
    trained: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> list[Check]:
    """Compares the input of task records with earlier input.

    Args:
        quality: Of today's input: ``quality`` of the data card.
        trained: Of the model's training data; empty if unknown.
        reference: Of the published run's input; empty if there is none.
        limits: The thresholds.
        window: Start and end of today's window, milliseconds.

    Returns:
        For every feature its share of filled values, and for every table its share of unknown keys,
        against the training data or, if its shares are unknown, the published run; without either
        the limit is `MAX_SHARE_WITHOUT_REFERENCE`. The age of the newest row, the number of rows
        per day and the number of days that lost at least half of their rows, against the published
        run.
    """
    return [
        *_checks_of_shares(quality, trained, reference, limits),
        *_checks_of_times(quality, reference, limits, window),
    ]


def _checks_of_shares(
    quality: Mapping[str, Any],
    trained: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
) -> list[Check]:
    """Filled values and unknown keys; see `check_input`."""
    checks = []
    for kind, text, limit in (
        ("filled", "share of filled values of feature", "max_filled_increase"),
        ("unknown_keys", "share of unknown keys of table", "max_unknown_increase"),
    ):
        expected = trained.get(kind, reference.get(kind))
        for name, share in quality.get(kind, {}).items():
            allowed = (
                MAX_SHARE_WITHOUT_REFERENCE
                if expected is None
                else expected.get(name, 0.0) + getattr(limits, limit)
            )
            names = ("", "" if expected is None else limit)
            checks.append(Check(f"{text} {name}", share, 0.0, allowed, limits=names))
    return checks


def usual_age(reference: Mapping[str, Any]) -> float:
    """The least age of the newest row, of the published run and all published runs before it.

    Compared with the last run alone, an input that stands still would only ever be a little older.
    """
    return max(reference.get("usual_age_days", reference["newest_row_age_days"]), 0.0)


def _checks_of_times(
    quality: Mapping[str, Any],
    reference: Mapping[str, Any],
    limits: Thresholds,
    window: tuple[int, int],
) -> list[Check]:
    """Which days have rows, and how many; see `check_input`."""
    checks = []
    if "newest_row_age_days" in quality and "newest_row_age_days" in reference:
        allowed = usual_age(reference) + limits.max_age_increase_days
        age = quality["newest_row_age_days"]
        names = ("", "max_age_increase_days")
        checks.append(Check("age of the newest row in days", age, 0.0, allowed, limits=names))
    if quality.get("rows_per_day") and reference.get("rows_per_day"):
        checks.append(
            Check(
                "rows per day relative to the published run",
                quality["rows_per_day"] / reference["rows_per_day"],
                limits.min_rows_per_day_ratio,
                limits.max_rows_per_day_ratio,
                limits=("min_rows_per_day_ratio", "max_rows_per_day_ratio"),
            )
        )
    if quality.get("rows_by_day") and reference.get("rows_by_day"):
        lost = days.lost(quality, reference, window)
        checks.append(
            Check(
                "number of days that lost at least half of the published run's rows",
                len(lost),
                0.0,
                limits.max_lost_days,
                days.text(lost),
                "deliver these days and repeat the command, or accept them with --max-lost-days "
                f"{len(lost)}"
                if lost
                else "",
                limits=("", "max_lost_days"),
            )
        )
    return checks


def require(checks: list[Check]) -> None:
    """Raises `LimamlError` naming every check that failed."""
    failed = [check for check in checks if not check.passed]
    if failed:
        options = dict.fromkeys(check.option for check in failed if check.option)
        remedy = f", or widen {', '.join(options)} if the change is intended" if options else ""
        raise LimamlError(f"not published: {'; '.join(map(str, failed))}. Fix the cause{remedy}")
