"""A Redis server that is stopped in the middle (SIGSTOP): connections open, and nobody answers."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from limaml_serving import AsyncRanker
from tfrec_limaml.store import open_store


@pytest.fixture
def hung_store(redis_server, tmp_path):
    """A store with the member's embedding, whose server has stopped to answer."""
    server = type(redis_server)(tmp_path)
    server.start()
    # Far longer than any deadline here: it is not the store that ends the look-up.
    store = open_store(f"{server.address}?timeout=300")
    with store.new_generation(1, 3) as writer:
        writer.put(["7"], np.array([[1, 0, 0]], np.float32))
        writer.publish()
    assert store.get_many(["7"], 1)[1].all()
    os.kill(server.process.pid, signal.SIGSTOP)
    yield store
    server.stop()  # ends the look-ups that hang
    store.close()


def test_the_blocking_ranker_answers_within_its_deadline(
    make_ranker, hung_store, member, candidates
):
    ranker = make_ranker(store=hung_store)
    for _ in range(18):  # more than there are threads for look-ups
        ranked = ranker.rank(member, candidates, timeout=1.0)
        assert not ranked.used_embedding.any()
    assert (ranker.counters.store_errors, ranker.counters.deadline_exceeded) == (18, 0)


def test_the_asyncio_ranker_answers_within_its_deadline(
    server, hung_store, make_manifest, member, candidates
):
    async def work():
        async with AsyncRanker(server.target, hung_store, manifest=make_manifest()) as ranker:
            calls = [ranker.rank(member, candidates, timeout=5.0) for _ in range(20)]
            return await asyncio.gather(*calls), ranker.counters

    ranked, counters = asyncio.run(work())
    assert not any(each.used_embedding.any() for each in ranked)
    assert (counters.store_errors, counters.deadline_exceeded) == (20, 0)
