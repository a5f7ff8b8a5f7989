"""Every backend: the order of generations, rollback and pruning, and writers beside each other."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from few_keys import KEYS, write

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store


def test_generations_are_listed_oldest_first_with_one_current(store):
    for n in range(3):
        write(store, [n] * 4, identifier=f"g{n}")
    write(store, [7] * 4, version=12, identifier="h")
    listed = store.generations(1)
    assert [(g.identifier, g.state, g.count, g.embedding_dim) for g in listed] == [
        ("g0", "published", 4, 3),
        ("g1", "published", 4, 3),
        ("g2", "current", 4, 3),
    ]
    assert [(g.model_version, g.identifier) for g in store.generations()] == [
        (1, "g0"),
        (1, "g1"),
        (1, "g2"),
        (12, "h"),
    ]
    assert store.current(1) == listed[-1]


def test_new_identifiers_increase_even_within_one_second(store):
    names = [write(store, [n] * 4).identifier for n in range(3)]
    assert names == sorted(set(names))


def test_a_newest_generation_from_the_future_does_not_stop_the_next_ones(store):
    write(store, [1] * 4, identifier="29991231T000000Z")
    names = [write(store, [n] * 4).identifier for n in range(2)]
    assert names == ["29991231T000000Z-001", "29991231T000000Z-002"]


def test_an_identifier_that_does_not_increase_is_refused(store):
    write(store, [1] * 4, identifier="g5")
    with pytest.raises(StoreError, match="does not sort after"):
        store.new_generation(1, 3, "g4")
    with pytest.raises(StoreError, match="letters, digits"):
        store.new_generation(1, 3, "../escape")
    with pytest.raises(StoreError, match=r"must not end in '\.lock', .* received 'g6\.lock'"):
        store.new_generation(1, 3, "g6.lock")


def test_rollback_returns_to_the_previous_or_a_named_generation(store, open_another):
    for n in range(3):
        write(store, [n] * 4, identifier=f"g{n}")
    reader = open_another()
    assert store.rollback(1).identifier == "g1"
    assert reader.get_many(["a"], 1)[0][0, 0] == 1
    assert store.rollback(1, "g2").identifier == "g2"
    assert store.rollback(1, "g0").identifier == "g0"
    assert reader.get_many(["a"], 1)[0][0, 0] == 0
    with pytest.raises(StoreError, match="before 'g0'"):
        store.rollback(1)
    with pytest.raises(StoreError, match="'gX'"):
        store.rollback(1, "gX")


def test_prune_spares_the_newest_the_current_and_the_young(store):
    for n in range(4):
        write(store, [n] * 4, identifier=f"g{n}")
    store.rollback(1, "g0")
    assert store.prune(1, keep=1) == []
    assert store.prune(1, keep=1, grace_seconds=0) == ["g1", "g3"]
    assert [g.identifier for g in store.generations(1)] == ["g0", "g2"]
    assert store.get_many(["a"], 1)[0][0, 0] == 0
    with pytest.raises(StoreError, match="keep"):
        store.prune(1, keep=-1)


def test_all_generations_of_a_version_that_is_no_longer_served_can_be_removed(store, open_another):
    for n in range(2):
        write(store, [n] * 4, identifier=f"g{n}")
    write(store, [7] * 4, version=11)
    store.upsert(1, "g1", ["a"], np.full((1, 3), 9.0, "f"), [5])
    reader = open_another()
    assert reader.get_many(["a"], 1)[0][0, 0] == 9
    assert store.prune(1, keep=0) == []  # all are young
    assert store.prune(1, keep=0, grace_seconds=0) == ["g0", "g1"]
    for each in (store, reader, open_another()):
        matrix, found = each.get_many(["a", "b"], 1)
        assert (matrix.shape, found.any()) == ((2, 0), False)
        assert [g.identifier for g in each.generations(1)] == []
        assert each.get_many(["a"], 11)[0][0, 0] == 7
    write(store, [3] * 4, identifier="g2")
    assert reader.get_many(["a"], 1)[0][0, 0] == 3


def test_versions_do_not_see_each_other(store):
    write(store, [1] * 4, version=1)
    write(store, [2] * 4, version=11)
    assert store.prune(1, keep=1, grace_seconds=0) == []
    assert store.get_many(["a"], 11)[0][0, 0] == 2
    assert store.get_many(["a"], 1)[0][0, 0] == 1


def test_a_second_writer_of_the_same_generation_is_refused(store, open_another):
    with store.new_generation(1, 3, "g1") as writer:
        with pytest.raises(StoreError, match="still writing"):
            open_another().new_generation(1, 3, "g1")
        writer.put(KEYS, np.ones((4, 3), np.float32))
        writer.publish(4)
    assert store.current(1).identifier == "g1"


def test_two_writers_of_different_generations_do_not_disturb_each_other(store, open_another):
    with (
        store.new_generation(1, 3, "g1") as first,
        open_another().new_generation(1, 3, "g2") as second,
    ):
        first.put(["a"], np.ones((1, 3), np.float32))
        second.put(["b"], np.ones((1, 3), np.float32))
        store.prune(1, grace_seconds=0)
        first.publish(1)
        second.publish(1)
    assert store.get_many(["a", "b"], 1)[1].tolist() == [False, True]


def _die_while_writing(address, ready):
    store = open_store(address)
    writer = store.new_generation(1, 3, "g1")
    writer.put(KEYS, np.full((4, 3), 9, np.float32))
    ready.set()
    time.sleep(60)


def test_what_a_killed_writer_left_behind_is_invisible_and_removed(store, store_address, tmp_path):
    write(store, [1] * 4, identifier="g0")
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    address = store_address.replace("lease=60", "lease=1")
    process = spawn.Process(target=_die_while_writing, args=(address, ready))
    process.start()
    assert ready.wait(300)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [g.identifier for g in store.generations(1)] == ["g0"]
    assert store.get_many(["a"], 1)[0][0, 0] == 1
    if store_address.startswith("redis"):
        time.sleep(1.2)  # the dead writer's lease
    store.prune(1)
    if store_address.startswith("redis"):
        assert not store.client.exists(store.catalog.data_key(1, "g1"))
    else:
        assert sorted(p.name for p in (tmp_path / "store" / "1").iterdir()) == ["g0"]
    write(store, [2] * 4, identifier="g1")
    assert store.get_many(["a"], 1)[0][0, 0] == 2


def test_readers_during_publishes_see_one_generation_at_a_time(store, open_another):
    keys = [str(n) for n in range(50)]
    write(store, [0] * 50, keys=keys)
    stop = threading.Event()
    mixed, seen = [], set()

    def read():
        reader = open_another()
        while not stop.is_set():
            matrix, found = reader.get_many(keys, 1)
            seen.add(float(matrix[0, 0]))
            if not found.all() or len(np.unique(matrix)) != 1:
                mixed.append(matrix)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(1, 15):
        write(store, [n] * 50, keys=keys)
        store.prune(1, keep=2, grace_seconds=0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not mixed
    assert len(seen) > 1
