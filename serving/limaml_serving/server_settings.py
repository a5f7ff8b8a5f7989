"""The values that the embedded server's settings may have, from Python and on the command line.

Imports nothing heavy: the command line refuses wrong values before it loads TensorFlow.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from limaml_serving.errors import ConfigError

#: gRPC's own limit of a message.
_LARGEST_MESSAGE = 2**31 - 1
_LARGEST_PORT = 65535
#: Smallest and largest value of each setting that is a whole number.
_WHOLE: dict[str, tuple[int, float]] = {
    "port": (0, _LARGEST_PORT),
    "metrics_port": (0, _LARGEST_PORT),
    "workers": (1, math.inf),
    "max_queue": (0, math.inf),
    "max_rows": (1, math.inf),
    "max_message_bytes": (1, _LARGEST_MESSAGE),
    "max_response_bytes": (1, _LARGEST_MESSAGE),
    "count": (1, math.inf),
    "max_message_mb": (1, _LARGEST_MESSAGE >> 20),
    "max_response_mb": (1, _LARGEST_MESSAGE >> 20),
}


def check_settings(settings: Mapping[str, Any], option: bool = False) -> None:
    """Raises `ConfigError` for a value that cannot be served; None stands for the default.

    Args:
        settings: Values by the names of the arguments of `EmbeddedServer` and of `VersionPolicy`,
            and of options of the command line.
        option: Whether errors name options of the command line instead.
    """
    for name, value in settings.items():
        expected = None if value is None else _expected(name, value)
        if expected is not None:
            shown = f"--{name.replace('_', '-')}" if option else name
            raise ConfigError(f"{shown} must be {expected}, received {value!r}")


def _expected(name: str, value: Any) -> str | None:
    """What the value should be; None if it is that."""
    if name not in _WHOLE:
        kind, zero = ("positive", False) if name == "poll_seconds" else ("not negative", True)
        is_number = isinstance(value, Real)
        if is_number and 0 <= value <= threading.TIMEOUT_MAX and (zero or value > 0):
            return None
        return f"{kind} and a number of seconds, at most {threading.TIMEOUT_MAX:.0f}"
    low, high = _WHOLE[name]
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and low <= value <= high:
        return None
    if high == math.inf:
        return f"a whole number, at least {low}"
    return f"a whole number between {low} and {high}"
