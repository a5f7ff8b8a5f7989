"""JSON of results: NaN and infinity, which JSON does not have, become null."""

from __future__ import annotations

import json
import math
from typing import Any


def without_nan(value: Any) -> Any:
    """The value with None for each number that is not finite (an undefined metric)."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value: Any, indent: int | None = None, default: Any = None) -> str:
    """`json.dumps` of the finite values."""
    return json.dumps(without_nan(value), indent=indent, default=default, allow_nan=False)
