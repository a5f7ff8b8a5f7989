"""Named values and checks of settings, which models, options and commands share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from tfrec_limaml.errors import LimamlError

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


def check_at_least(name: str, value: float, bound: float) -> None:
    """Raises `LimamlError` if a number is below its bound, infinite or NaN."""
    if not bound <= value < math.inf:
        raise LimamlError(f"{name} must be at least {bound}, received {value}")


def check_fields_at_least(options: Any, bounds: Mapping[str, float]) -> None:
    """Raises `LimamlError` for a field below its bound, infinite or NaN; None means not set."""
    for name, bound in bounds.items():
        value = getattr(options, name)
        if value is None:
            continue
        check_at_least(name, value, bound)
        annotation = str(type(options).__dataclass_fields__[name].type)  # "int | None", for example
        if "float" not in annotation and int(value) != value:
            raise LimamlError(f"{name} must be a whole number, received {value}")
