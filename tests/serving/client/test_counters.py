"""Counters as a dataclass and as Prometheus sees them; and what importing the client costs."""

from __future__ import annotations

import subprocess
import sys
import threading

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from limaml_serving import Counters, PrometheusCounters


def test_threads_lose_no_count():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    counters = Counters()
    threads = [
        threading.Thread(
            target=lambda: [counters.add(requests=1, candidates=3) for _ in range(2000)]
        )
        for _ in range(4)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    sys.setswitchinterval(interval)
    assert (counters.requests, counters.candidates) == (8000, 24000)


def test_prometheus_reads_every_counter():
    counters, registry = Counters(), prometheus_client.CollectorRegistry()
    registry.register(PrometheusCounters(counters))
    counters.add(missing=5)
    assert registry.get_sample_value("limaml_ranker_missing_total") == 5.0
    text = prometheus_client.generate_latest(registry).decode()
    assert all(f"limaml_ranker_{name}_total " in text for name in counters.snapshot())


@pytest.mark.parametrize("auto_describe", [False, True])
def test_several_clients_of_a_process_are_told_apart_by_a_label(auto_describe):
    registry = prometheus_client.CollectorRegistry(auto_describe=auto_describe)
    clients = {"home": Counters(missing=2)}
    registry.register(PrometheusCounters(clients))
    clients["mail"] = Counters(missing=5)
    text = prometheus_client.generate_latest(registry).decode()
    assert text.count("# TYPE limaml_ranker_missing_total") == 1
    found = {
        sample.labels["client"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "limaml_ranker_missing_total"
    }
    assert found == {"home": 2.0, "mail": 5.0}


@pytest.mark.parametrize("auto_describe", [False, True])
def test_a_second_collector_in_a_registry_is_refused_instead_of_a_name_that_is_there_twice(
    auto_describe,
):
    registry = prometheus_client.CollectorRegistry(auto_describe=auto_describe)
    registry.register(PrometheusCounters(Counters()))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(PrometheusCounters(Counters()))


def test_the_client_is_imported_without_tensorflow():
    script = "import sys, limaml_serving as s; s.Ranker, s.AsyncRanker; sys.exit('tensorflow' in sys.modules)"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


def test_the_documentation_names_every_counter(checkout):
    text = (checkout / "docs" / "serving.md").read_text()
    missing = [
        name
        for name in Counters().snapshot()
        if f"`{name}`" not in text and f"limaml_ranker_{name}_total" not in text
    ]
    assert missing == []
