"""A Redis server, or a node of a cluster, that is stopped in the middle (SIGSTOP): connections are
open, and nobody answers.

Half of a call's time is for the look-up. The other half is long here: on a busy machine a process
may stand still for a second.
"""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from limaml_serving import AsyncRanker
from limaml_serving.client import look_up
from tfrec_limaml.store import open_store


@pytest.fixture(params=["redis", "redis+cluster"])
def hung_store(request, tmp_path):
    """A store with the member's embedding, whose server has stopped to answer; of a cluster, the
    one node that holds it.
    """
    # Far longer than any deadline here: it is not the store that ends the look-up.
    options = f"?timeout=300&prefix={tmp_path.name}"
    if request.param == "redis":
        server = type(request.getfixturevalue("redis_server"))(tmp_path)
        server.start()
        store = open_store(f"{server.address}{options}")
        write(store)
        process, resume = server.process.pid, server.stop
    else:
        nodes = request.getfixturevalue("redis_cluster_nodes")
        store = open_store(f"redis+cluster://{','.join(nodes)}{options}")
        write(store)
        process = nodes[store.client.get_node_from_key(store.catalog.key(1, "current")).name]
        resume = lambda: os.kill(process, signal.SIGCONT)  # noqa: E731
    os.kill(process, signal.SIGSTOP)
    yield store
    resume()  # ends the look-ups that hang
    store.close()


def write(store):
    with store.new_generation(1, 3) as writer:
        writer.put(["7"], np.array([[1, 0, 0]], np.float32))
        writer.publish()
    assert store.get_many(["7"], 1)[1].all()


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    monkeypatch.setattr(look_up, "_THREADS", 2)


def test_the_blocking_ranker_answers_within_its_deadline(
    make_ranker, hung_store, member, candidates
):
    ranker = make_ranker(store=hung_store)
    for _ in range(3):  # more than there are threads for look-ups
        ranked = ranker.rank(member, candidates, timeout=3.0)
        assert not ranked.used_embedding.any()
    assert (ranker.counters.store_errors, ranker.counters.deadline_exceeded) == (3, 0)


def test_the_asyncio_ranker_answers_within_its_deadline(
    server, hung_store, make_manifest, member, candidates
):
    async def work():
        async with AsyncRanker(server.target, hung_store, manifest=make_manifest()) as ranker:
            calls = [ranker.rank(member, candidates, timeout=8.0) for _ in range(5)]
            return await asyncio.gather(*calls), ranker.counters

    ranked, counters = asyncio.run(work())
    assert not any(each.used_embedding.any() for each in ranked)
    assert (counters.store_errors, counters.deadline_exceeded) == (5, 0)


def test_a_new_client_of_a_cluster_with_a_hung_node_keeps_the_deadline(
    make_ranker, redis_cluster_nodes, tmp_path, member, candidates
):
    """It asks that node for the cluster's other nodes, and gets no answer."""
    address, process = next(iter(redis_cluster_nodes.items()))
    store = open_store(f"redis+cluster://{address}?timeout=300&prefix={tmp_path.name}")
    os.kill(process, signal.SIGSTOP)
    try:
        ranker = make_ranker(store=store)
        for _ in range(3):
            assert not ranker.rank(member, candidates, timeout=3.0).used_embedding.any()
        assert (ranker.counters.store_errors, ranker.counters.deadline_exceeded) == (3, 0)
    finally:
        os.kill(process, signal.SIGCONT)
