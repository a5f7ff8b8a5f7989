"""Serving: the ranker client and the embedded TensorFlow Serving server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limaml_serving.client.async_ranker import AsyncRanker
    from limaml_serving.client.channel import Tls
    from limaml_serving.client.counters import Counters, PrometheusCounters
    from limaml_serving.client.ranker import Ranker
    from limaml_serving.client.steps import Ranked
    from limaml_serving.errors import RequestError, ServingError

__all__ = [
    "AsyncRanker",
    "Counters",
    "PrometheusCounters",
    "Ranked",
    "Ranker",
    "RequestError",
    "ServingError",
    "Tls",
]

# Loaded on first use, so that `limaml --help` does not pay for gRPC.
_MODULES = {
    "AsyncRanker": "client.async_ranker",
    "Counters": "client.counters",
    "PrometheusCounters": "client.counters",
    "Ranked": "client.steps",
    "Ranker": "client.ranker",
    "RequestError": "errors",
    "ServingError": "errors",
    "Tls": "client.channel",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
