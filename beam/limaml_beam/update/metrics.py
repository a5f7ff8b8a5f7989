"""Prometheus metrics of a running stream, over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from limaml_beam.io.metrics_file import QUANTILES
from limaml_beam.update.patience import Tell
from tfrec_limaml.errors import LimamlError


class StreamMetrics:
    """What a stream has done, and whether it waits.

    Attributes:
        registry: The collectors, each named ``limaml_stream_...``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._updates = self._counter("updates", "Updates that are in the store.")
        self._rows = self._counter("rows", "Rows of the interactions.", "state")
        self._tasks = self._counter("tasks", "Tasks adapted.")
        self._upserted = self._counter("embeddings", "Embeddings upserted.")
        self._filled = self._counter("values_filled", "Values of features that were filled.")
        self._unreadable = self._counter("values_unreadable", "Filled values that are not valid.")
        self._unknown = self._counter("unknown_keys", "Keys that a feature table lacks.")
        self._letters = self._counter("dead_letters", "Rows, files and messages refused.")
        self._waits = self._counter("waits", "Attempts after which the stream waited.")
        self._broker_errors = self._counter("broker_errors", "Errors of the broker, as reported.")
        self._waiting = self._gauge("waiting", "1 while it waits for the store or another run.")
        self._last = self._gauge(
            "last_update_timestamp_seconds", "End of the last update that used a new row."
        )
        self._lag = self._gauge(
            "lag_seconds", "Seconds from interaction to store in the last update.", "quantile"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"limaml_stream_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"limaml_stream_{name}", text, labels, registry=self.registry)

    def observe(self, report: Mapping[str, Any]) -> None:
        """Counts a report of any kind; see `Tell`."""
        if "waiting" in report:
            self._waiting.set(1)
            self._waits.inc()
        elif "waited" in report:
            self._waiting.set(0)
        elif "broker" in report:  # also while the stream waits
            self._broker_errors.inc()
        elif "refused_file" in report:
            self._letters.inc()
        elif "rows" in report:
            self._count_update(report)

    def _count_update(self, report: Mapping[str, Any]) -> None:
        rows = report["rows"]
        self._updates.inc()
        self._rows.labels("read").inc(rows["read"])
        self._rows.labels("used").inc(rows["used"])
        self._tasks.inc(report["tasks"])
        self._upserted.inc(report["upserted"])
        self._letters.inc(report["dead_letters"])
        self._filled.inc(sum(report["filled"].values()))
        self._unreadable.inc(sum(report["unreadable"].values()))
        self._unknown.inc(sum(report["unknown_keys"].values()))
        if rows["used"]:  # others do not show that interactions arrive
            self._last.set(time.time())
        for name, seconds in (report["lag_seconds"] or {}).items():
            self._lag.labels(QUANTILES[name]).set(seconds)


@contextlib.contextmanager
def serving_metrics(tell: Tell, host: str, port: int | None) -> Iterator[Tell]:
    """A context that answers ``http://HOST:PORT/metrics``; without a port it does nothing.

    Args:
        tell: Receives the reports of the stream.
        host: Address to listen at.
        port: Port to listen at; 0 for a free one.

    Yields:
        A function that counts a report and hands it on to `tell`.

    Raises:
        LimamlError: The port cannot be used.
    """
    if port is None:
        yield tell
        return
    metrics = StreamMetrics()
    try:
        server, _ = start_http_server(port, addr=host, registry=metrics.registry)
    except (OSError, OverflowError) as error:
        raise LimamlError(
            f"cannot serve metrics at {host}:{port}: {error}; choose another --metrics-port"
        ) from error

    def count(report: dict[str, Any]) -> None:
        metrics.observe(report)
        tell(report)

    try:
        tell({"metrics": f"http://{host}:{server.server_port}/metrics"})
        yield count
    finally:
        server.shutdown()
        server.server_close()
