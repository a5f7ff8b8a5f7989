"""How the benchmarks print their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Prints one JSON object, or a line for each key."""
    lines = (f"{key}: {value}" for key, value in result.items())
    print(json.dumps(result, indent=2) if as_json else "\n".join(lines))
