"""Counters of the client: a plain dataclass, which can be exported to Prometheus."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(kw_only=True)
class Counters:
    """Counts since the client was made; safe to increase from several threads.

    Attributes:
        requests: Calls of ``rank`` and entries of ``rank_many``.
        candidates: Candidates scored.
        adapted: Candidates scored with a meta embedding.
        missing: Candidates scored without a meta embedding, other than `anonymous` ones: the store
            does not have the key or failed, the embedding is damaged, or the store has no published
            embeddings of the model version.
        damaged: Stored embeddings that failed a check (checksum, width, not finite) and were not
            used; their candidates count as `missing`.
        anonymous: Candidates scored without a meta embedding because a key column was given as
            ``None``, or as a value that cannot be a key.
        store_errors: Look-ups that failed, or were left out because the last five had failed; their
            candidates were scored without embeddings.
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
    """A Prometheus collector of the counters of one client, or of several.

    Every counter appears as ``limaml_ranker_<name>_total``. With several clients, each sample has
    the label ``client``. A registry takes one such collector only: a second one would repeat the
    names, and Prometheus' library raises `ValueError`.

    Examples:
        >>> REGISTRY = prometheus_client.REGISTRY                          # doctest: +SKIP
        >>> REGISTRY.register(PrometheusCounters(ranker.counters))         # doctest: +SKIP

    Args:
        counters: The counters of a client, or a mapping from names to the counters of several
            clients. Clients may be added to the mapping later.
    """

    def __init__(self, counters: Counters | Mapping[str, Counters]) -> None:
        self._counters = counters

    def describe(self) -> list[Any]:
        """Called by Prometheus' registry, which refuses names that it already has."""
        return list(_families(()).values())

    def collect(self) -> Iterator[Any]:
        """Called by Prometheus at every scrape."""
        if isinstance(self._counters, Counters):
            labels: tuple[str, ...] = ()
            snapshots: list[tuple[Sequence[str], dict[str, int]]] = [
                ((), self._counters.snapshot())
            ]
        else:
            labels = ("client",)
            snapshots = [((n,), c.snapshot()) for n, c in list(self._counters.items())]
        families = _families(labels)
        for values, snapshot in snapshots:
            for name, value in snapshot.items():
                families[name].add_metric(values, value)
        yield from families.values()


def _families(labels: Sequence[str]) -> dict[str, Any]:
    """An empty metric for every counter."""
    from prometheus_client.core import CounterMetricFamily

    return {
        field.name: CounterMetricFamily(
            f"limaml_ranker_{field.name}",
            f"Ranker client: {field.name.replace('_', ' ')}.",
            labels=labels,
        )
        for field in dataclasses.fields(Counters)
    }
