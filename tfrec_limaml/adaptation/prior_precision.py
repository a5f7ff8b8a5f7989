"""The range of the prior precision of closed-form adaptation."""

from __future__ import annotations

import math

from tfrec_limaml.errors import LimamlError

#: Bounds of the logarithm of the prior precision, which is learned within them.
PRECISION_RANGE = (-8.0, 8.0)


def check_prior_precision(value: float) -> None:
    """Raises `LimamlError` if training cannot start at this prior precision."""
    if not 0 < value < math.inf:
        raise LimamlError(f"prior_precision must be positive, received {value}")
    low, high = (math.exp(bound) for bound in PRECISION_RANGE)
    if not low <= value <= high:
        raise LimamlError(
            f"prior_precision must be between {low:.2g} and {math.floor(high)}, received {value}"
        )
