"""Erasures that come while an output is loaded into a store."""

import json
import logging
import threading

import pytest

from limaml_beam.generate_embeddings.publish import publish
from tfrec_limaml.errors import ErasedMeanwhileError
from tfrec_limaml.store import open_store


@pytest.fixture
def output(world):
    """An output of the embedding job, generation g2: 0 to 5, 3|mail and 30."""
    report = {"model_version": 1, "generation": "g2", "embedding_dim": 2, "rows": 8}
    (world / "work" / "g1" / "report.json").write_text(json.dumps(report))
    return str(world / "work" / "g1")


@pytest.fixture
def eventful(monkeypatch):
    """``eventful(address, event)``: a store that calls ``event(n)`` in the n-th load, from 1."""
    opened = []

    def make(address, event):
        store, loads = open_store(address), []
        opened.append(store)
        new_generation = store.new_generation

        def open_writer(*arguments):
            writer = new_generation(*arguments)
            loads.append(writer)
            event(len(loads))
            return writer

        monkeypatch.setattr(store, "new_generation", open_writer)
        return store

    yield make
    for store in opened:
        store.close()


def test_an_output_is_loaded_again_while_erasures_come(world, output, eventful, caplog):
    other = open_store(f"lmdb:{world}/store")

    def event(n):
        if n < 3:
            other.erase([str(n)])

    store = eventful(f"lmdb:{world}/store", event)
    with caplog.at_level(logging.WARNING):
        assert publish(output, store).count == 6
    assert [record.args for record in caplog.records] == [("g2", 2, 5), ("g2", 3, 5)]


def test_erasures_wait_for_the_last_load_into_a_folder(world, output, eventful):
    other = open_store(f"lmdb:{world}/store")
    threads = []

    def event(n):
        threads.append(threading.Thread(target=other.erase, args=([str(n)],)))
        threads[-1].start()
        threads[-1].join(60 if n < 5 else 0.5)  # time enough to erase

    store = eventful(f"lmdb:{world}/store", event)
    assert publish(output, store).count == 3  # 0, 5 and 30
    for thread in threads:
        thread.join(60)
    assert store.get_many(["0", "5", "30"], 1)[1].tolist() == [True, False, True]


def test_an_output_that_meets_an_erasure_in_every_load_is_not_published(
    output, eventful, redis_server, tmp_path
):
    address = f"{redis_server.address}?prefix={tmp_path.name}"
    other = open_store(address)
    store = eventful(address, lambda n: other.erase([str(n)]))
    with pytest.raises(ErasedMeanwhileError, match=r"each of 5 attempts.*run the same command"):
        publish(output, store)
    assert store.current(1) is None
