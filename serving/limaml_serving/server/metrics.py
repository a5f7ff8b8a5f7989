"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

#: Upper ends of the latency histogram's buckets, in seconds.
BUCKETS = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.512,
    1.0,
    4.0,
    16.0,
)

#: Label of requests for models that are not configured. Clients choose names freely, but the number
#: of labels must stay small.
OTHER = "(other)"


class Metrics:
    """Counters of requests, latencies, waiting requests and loaded versions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "limaml_serve_requests",
            "Requests answered.",
            ("model", "method", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "limaml_serve_seconds",
            "Time from start to end of handling.",
            ("model", "method"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._refused = Counter(
            "limaml_serve_refused",
            "Requests refused because the queue was full.",
            registry=self.registry,
        )
        self._versions = Gauge(
            "limaml_serve_available",
            "1 for each available version.",
            ("model", "version"),
            registry=self.registry,
        )
        self._pending = Gauge(
            "limaml_serve_pending", "Predict requests running or waiting.", registry=self.registry
        )
        self._last_check = Gauge(
            "limaml_serve_last_check_timestamp_seconds",
            "Unix time of the last check of the disk without an unexpected error.",
            registry=self.registry,
        )
        self._faults = Counter(
            "limaml_serve_check_errors",
            "Version directories that could not be read or loaded, and other failed checks.",
            registry=self.registry,
        )
        self._server: Any = None

    def observe(self, model: str, method: str, code: str, seconds: float) -> None:
        """Counts one answered request."""
        self._requests.labels(model, method, code).inc()
        self._seconds.labels(model, method).observe(seconds)

    def refuse(self) -> None:
        """Counts one request refused because the queue was full."""
        self._refused.inc()

    def watch_pending(self, count: Callable[[], float]) -> None:
        """Reads the number of pending requests from `count` whenever metrics are collected."""
        self._pending.set_function(count)

    def watch_last_check(self, time_of_last: Callable[[], float]) -> None:
        """Reads the time of the last check of the disk whenever metrics are collected."""
        self._last_check.set_function(time_of_last)

    def count_fault(self) -> None:
        """Counts a folder that cannot be read, a version that cannot be loaded, or a check that
        failed unexpectedly.
        """
        self._faults.inc()

    def set_available(self, available: Mapping[str, list[int]]) -> None:
        """Replaces the list of available versions."""
        self._versions.clear()
        for model, versions in available.items():
            for version in versions:
                self._versions.labels(model, str(version)).set(1)

    def serve(self, host: str, port: int) -> int:
        """Answers ``/metrics`` over HTTP; returns the port (a free one for 0)."""
        self._server, _ = start_http_server(port, addr=host, registry=self.registry)
        return int(self._server.server_port)

    def stop(self) -> None:
        """Stops answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
