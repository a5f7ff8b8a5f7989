"""The share of a task's samples that forms its support set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfrec_limaml.errors import LimamlError


def support_range(fraction: float | Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest share: of a range, or twice the same number.

    Raises `LimamlError` unless they lie between 0 and 1, in this order.
    """
    ends = np.broadcast_to(fraction, 2).tolist() if np.size(fraction) in (1, 2) else []
    numbers = len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    if not numbers or not 0.0 <= ends[0] <= ends[1] <= 1.0:
        raise LimamlError(
            "support_fraction must lie between 0 and 1, a range with its lower end first, received "
            f"{fraction!r}"
        )
    return float(ends[0]), float(ends[1])
