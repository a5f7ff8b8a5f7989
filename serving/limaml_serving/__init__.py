"""Serving: the ranker client and the embedded TensorFlow Serving server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfrec_limaml.lazy_names import lazy_getattr

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

__getattr__ = lazy_getattr(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
