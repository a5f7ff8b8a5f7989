"""Counters of the client: a plain dataclass, which can be exported to Prometheus."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(kw_only=True)
class Counters:
    """Counts since the client was made; safe to increase from several threads.

    Attributes:
        requests: Calls of ``rank`` and entries of ``rank_many``.
        candidates: Candidates scored.
        adapted: Candidates scored with a meta embedding.
        missing: Candidates scored without one because the store does not have the key.
        damaged: Stored embeddings that failed a check (checksum, width, not finite) and were not
            used; their candidates count as `missing`.
        anonymous: Candidates scored without one because a key column was given as ``None``, or as a
            value that cannot be a key.
        store_errors: Look-ups that failed; their candidates were scored without embeddings.
        version_mismatches: Requests without published embeddings of the serving model version.
        version_changes: Number of times that the answering model version changed.
        filled: Feature columns with values replaced by the schema's default value.
        deadline_exceeded: Requests that ran out of time.
        unavailable: Requests given up after the retries (``UNAVAILABLE``, ``RESOURCE_EXHAUSTED``).
        failed: Requests that the server refused for any other reason.
    """

    requests: int = 0
    candidates: int = 0
    adapted: int = 0
    missing: int = 0
    damaged: int = 0
    anonymous: int = 0
    store_errors: int = 0
    version_mismatches: int = 0
    version_changes: int = 0
    filled: int = 0
    deadline_exceeded: int = 0
    unavailable: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, **amounts: int) -> None:
        """Increases counters by name."""
        counts = vars(self)
        with self._lock:
            for name, amount in amounts.items():
                counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """A consistent copy of all counters."""
        with self._lock:
            return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class PrometheusCounters:
    """A collector: ``prometheus_client.REGISTRY.register(PrometheusCounters(ranker.counters))``.

    Every counter appears as ``limaml_ranker_<name>_total``.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Any]:
        """Called by Prometheus at every scrape."""
        from prometheus_client.core import CounterMetricFamily

        for name, value in self._counters.snapshot().items():
            yield CounterMetricFamily(
                f"limaml_ranker_{name}", f"Ranker client: {name.replace('_', ' ')}.", value=value
            )
