"""A Redis server, or a node of a cluster, that is stopped in the middle (SIGSTOP): connections are
open, and nobody answers.

Half of a call's time is for the look-up. The other half is long here: on a busy machine a process
may stand still for a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from waiting import wait_for

from limaml_serving import AsyncRanker
from limaml_serving.client import store_reader
from limaml_serving.client.steps import LookUp
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
    monkeypatch.setattr(store_reader, "_THREADS", 2)


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


HANGING = """
import time
from limaml_serving.client.store_reader import StoreReader
from limaml_serving.client.steps import LookUp

class Store:
    def get_many(self, keys, model_version):
        time.sleep(3600)

reader = StoreReader(Store())
try:
    reader.look_up(LookUp(["7"], 1, 0.01))
except TimeoutError:
    reader.close()
    print("closed")
"""


def test_a_process_ends_although_a_store_hangs():
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "closed\n"


def test_look_ups_take_turns_on_the_threads_and_end_when_they_are_closed():
    begun, released = threading.Semaphore(0), threading.Event()
    threads_before = set(threading.enumerate())

    class Store:
        def get_many(self, keys, model_version):
            begun.release()
            released.wait()
            return keys

    reader = store_reader.StoreReader(Store())
    answers = [reader.submit(LookUp([n], 1, 60.0)) for n in range(5)]
    for _ in range(2):  # the number of threads
        begun.acquire()
    assert not begun.acquire(blocking=False)
    answers[4].cancel()
    released.set()
    assert [answer.result(60) for answer in answers[:4]] == [[0], [1], [2], [3]]
    released.clear()
    answers = [reader.submit(LookUp([n], 1, 60.0)) for n in range(3)]
    for _ in range(4):
        begun.acquire()
    reader.close()
    assert [answer.cancelled() for answer in answers] == [False, False, True]
    with pytest.raises(RuntimeError, match="closed"):
        reader.submit(LookUp([0], 1, 60.0))
    released.set()
    assert [answer.result(60) for answer in answers[:2]] == [[0], [1]]
    wait_for(lambda: threads_before.issuperset(threading.enumerate()))


def test_a_look_up_that_got_no_thread_in_time_is_not_made_later():
    asked, released = [], threading.Event()

    class Store:
        def get_many(self, keys, model_version):
            asked.append(keys)
            released.wait()
            return keys

    reader = store_reader.StoreReader(Store())
    busy = [reader.submit(LookUp([n], 1, 60.0)) for n in range(2)]  # the number of threads
    with pytest.raises(TimeoutError):
        reader.look_up(LookUp(["late"], 1, 0.01))
    released.set()
    assert [answer.result(60) for answer in busy] == [[0], [1]]
    for _ in range(2):
        assert reader.look_up(LookUp(["next"], 1, 60.0)) == ["next"]
    reader.close()
    assert ["late"] not in asked
