"""Checks between a finished run of the embedding job and its publication."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from limaml_beam.build_tasks.row_checks import DUPLICATE, ERASED, OUTSIDE
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.embedding_statistics import drift
from limaml_beam.refresh.options import Thresholds
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

_NORMAL_REASONS = (DUPLICATE, OUTSIDE, ERASED)


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured value and its limits.

    Attributes:
        name: Name of the check in messages and results.
        value: The measured value.
        minimum, maximum: The limits, both allowed.
        detail: What was counted, for messages.
        remedy: What to do if the value is outside of the limits.
        options: The options that set the minimum and the maximum; empty for a fixed limit.
    """

    name: str
    value: float
    minimum: float
    maximum: float
    detail: str = ""
    remedy: str = ""
    options: tuple[str, str] = ("", "")

    @property
    def passed(self) -> bool:
        """Whether the value is within its limits; NaN does not."""
        return bool(self.minimum <= self.value <= self.maximum)

    @property
    def option(self) -> str:
        """The option that allows this value; empty if there is none."""
        return self.options[0 if self.value < self.minimum else 1]

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        option = f" ({self.option})" if self.option else ""
        remedy = f": {self.remedy}" if self.remedy else ""
        return (
            f"{self.name} is {self.value:.4g}{detail}, allowed {self.minimum:.4g} to "
            f"{self.maximum:.4g}{option}{remedy}"
        )


def between(limits: Thresholds, name: str) -> dict[str, Any]:
    """Limits ``min_<name>`` and ``max_<name>`` of a check, with their options."""
    option = name.replace("_", "-")
    return {
        "minimum": getattr(limits, f"min_{name}"),
        "maximum": getattr(limits, f"max_{name}"),
        "options": (f"--min-{option}", f"--max-{option}"),
    }


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
        report: Report of the run, with ``statistics`` from `describe`.
        previous: Output of the published run; None if there is none.
        reference: Report of the published run.
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
            options=("--min-finite", ""),
        )
    ]
    improvement = report["statistics"]["loss_improvement"]
    if improvement is not None:
        minimum, options = limits.min_loss_improvement, ("--min-loss-improvement", "")
        checks.append(Check("loss improvement", improvement, minimum, 1.0, options=options))
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
            **between(limits, "count_ratio"),
        )
    ]
    if report["manifest_digest"] == reference["manifest_digest"]:
        old_norm = reference["statistics"]["mean_norm"]
        norms = report["statistics"]["mean_norm"] / old_norm if old_norm else float("inf")
        checks += [
            Check(
                "mean norm relative to the published run", norms, **between(limits, "norm_ratio")
            ),
            Check(
                "drift from the published vectors",
                drift(previous, folder),
                0.0,
                limits.max_drift,
                options=("", "--max-drift"),
            ),
        ]
    return checks


def require(checks: Sequence[Check], skipped: Mapping[str, int] | None = None) -> None:
    """Raises `LimamlError` naming every check that failed, and the rows that were left out.

    Args:
        checks: The checks.
        skipped: Rows left out, by reason. Duplicates, rows outside the dates and those of erased
            tasks are normal, and are not named.
    """
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    left_out = {name: n for name, n in (skipped or {}).items() if name not in _NORMAL_REASONS}
    rows = f". {_left_out_text(left_out)}" if left_out else ""
    raise LimamlError(f"not published: {'; '.join(map(str, failed))}{rows}{_remedy(failed)}")


def _remedy(failed: Sequence[Check]) -> str:
    """The remedy of checks that do not all name one; else ""."""
    if all(check.remedy for check in failed):
        return ""
    if any(check.option for check in failed):
        wider = ", or set the options in brackets to wider limits if the change is intended"
    else:
        wider = ""
    return f". Fix the cause{wider}"


def _left_out_text(rows_by_reason: Mapping[str, int]) -> str:
    """``3 rows were left out: REASON``; of several reasons, each with its number."""
    (reason, number), *others = sorted(rows_by_reason.items(), key=lambda item: (-item[1], item[0]))
    reasons = reason
    if others:
        reasons = ", ".join(f"{name} ({n})" for name, n in [(reason, number), *others])
    total = sum(rows_by_reason.values())
    return f"{counted(total, 'row was left out', 'rows were left out')}: {reasons}"
