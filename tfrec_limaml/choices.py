"""Settings with a few named values, which models, options and commands share."""

from __future__ import annotations

from typing import Literal, get_args

Adaptation = Literal["gauss-newton", "gradient"]
Averaging = Literal["task", "sample"]
Pooling = Literal["latest", "mean", "max", "cosine"]
Prior = Literal["zero", "encoder"]
SupportReduction = Literal["mean", "sum", "shrunk"]

ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)
AVERAGINGS: tuple[Averaging, ...] = get_args(Averaging)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
PRIORS: tuple[Prior, ...] = get_args(Prior)
SUPPORT_REDUCTIONS: tuple[SupportReduction, ...] = get_args(SupportReduction)


def check_choice(
    name: str, value: str, choices: tuple[str, ...], error: type[Exception] = ValueError
) -> str:
    """The value; raises `error` if it is not one of the choices."""
    if value not in choices:
        raise error(f"{name} must be one of {list(choices)}, received {value!r}")
    return value
