"""Erasure: keys that are gone from every generation and overlay, and stay out."""

import importlib
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tfrec_limaml.errors import ErasedMeanwhileError, StoreError
from tfrec_limaml.store import Upserted, open_store
from tfrec_limaml.store.erasure import key_digest

KEYS = ["17", "17|mail", "17|push", "170", "18", "18|mail", "ü*[1]", "ü*[1]|x"]


def write(store, identifier, keys=KEYS, version=1):
    with store.new_generation(version, 2, identifier) as writer:
        writer.put(list(keys), np.arange(2 * len(keys), dtype=np.float32).reshape(-1, 2))
        return writer.publish(len(keys))


def upsert(store, generation, keys, version=1):
    return store.upsert(
        version, generation, keys, np.ones((len(keys), 2), np.float32), [9] * len(keys)
    )


def found(store, keys=KEYS, version=1):
    return [key for key, hit in zip(keys, store.get_many(keys, version)[1], strict=True) if hit]


def places(result):
    return sorted((p.model_version, p.generation, p.part, p.keys) for p in result)


REST = ["170", "18", "18|mail", "ü*[1]", "ü*[1]|x"]


def test_an_erased_key_is_gone_from_every_generation_and_overlay(store, open_another):
    write(store, "g1")
    write(store, "g2")
    write(store, "h1", version=2)
    upsert(store, "g2", ["17", "18", "17|new"])
    reader = open_another()
    found(reader)
    held = [
        (1, "g1", "data", 3),
        (1, "g2", "data", 3),
        (1, "g2", "overlay", 2),
        (2, "h1", "data", 3),
    ]
    assert places(store.search(["17"])) == held
    assert places(store.erase(["17"])) == held
    assert store.search(["17"]) == []
    assert found(reader) == found(store) == REST
    assert store.get_many(["18"], 1)[0].tolist() == [[1, 1]]
    assert found(reader, version=2) == REST
    assert [g.count for g in store.generations(1)] == [5, 5]
    store.rollback(1)
    assert found(reader) == REST
    np.testing.assert_array_equal(store.get_many(["170"], 1)[0], [[6, 7]])


@pytest.mark.parametrize("more", [[], ["a", "b", "c", "d", "e"]])  # Redis searches many otherwise
def test_a_place_says_which_of_the_keys_it_holds(store, more):
    write(store, "g1")
    upsert(store, "g1", ["19|a"])
    given = ["17", "17|mail", "18|mail", "19", "20", "1", *more]
    matched = {"data": {"17", "17|mail", "18|mail"}, "overlay": {"19"}}
    assert {place.part: place.matched for place in store.search(given)} == matched
    assert {place.part: place.matched for place in store.erase(given)} == matched


def test_an_erased_key_stays_out_of_publications_and_upserts(store, open_another):
    write(store, "g1")
    store.erase(["17", "ü*[1]", "never there"])
    other = open_another()
    assert write(other, "g2").count == 3
    assert found(store) == ["170", "18", "18|mail"]
    counts = other.upsert(1, "g2", ["17", "17|a", "never there", "19"], np.ones((4, 2)), [1] * 4)
    assert counts == Upserted(applied=1, older=0, erased=3)
    assert found(store, ["17", "17|a", "never there", "19"]) == ["19"]
    assert store.search(["17", "never there"]) == []
    assert store.erased() == {key_digest(key) for key in ("17", "ü*[1]", "never there")}


def test_a_nested_key_goes_without_its_member(store):
    write(store, "g1")
    store.erase(["17|mail"])
    assert found(store) == [key for key in KEYS if key != "17|mail"]


def test_many_keys_at_once(store):
    keys = [f"{n}|{kind}" for n in range(60) for kind in "ab"]
    write(store, "g1", keys)
    store.erase([str(n) for n in range(30)])
    assert found(store, keys) == keys[60:]
    assert store.current(1).count == 60


def test_a_generation_that_was_begun_before_an_erasure_is_not_published(store, open_another):
    write(store, "g1")
    with store.new_generation(1, 2, "g2") as writer:
        writer.put(["17"], np.ones((1, 2), np.float32))
        open_another().erase(["17"])
        with pytest.raises(ErasedMeanwhileError, match="write it again"):
            writer.publish(1)
    assert store.current(1).identifier == "g1"
    assert write(store, "g2").count == 5
    assert found(store) == REST


def test_what_is_taken_over_holds_no_erased_key(store):
    write(store, "g1")
    upsert(store, "g1", ["17", "18"])
    store.erase(["17"])
    with store.new_generation(1, 2, "g2") as writer:
        writer.put(["18"], np.zeros((1, 2), np.float32))
        writer.publish(1, lambda keys: np.zeros(len(keys), np.int64))
    assert found(store) == ["18"]
    assert store.get_many(["18"], 1)[0].tolist() == [[1, 1]]
    assert store.search(["17"]) == []


def test_erasing_twice_and_from_an_empty_store_changes_nothing(store):
    assert store.erase(["17"]) == []
    assert store.erase([]) == []
    write(store, "g1")
    assert found(store) == REST
    assert store.erase(["17"]) == []


@pytest.mark.parametrize("key", ["", "x" * 600])
def test_a_key_that_no_store_can_hold_is_refused(store, key):
    with pytest.raises(StoreError, match="1 to 511 bytes"):
        store.erase([key])


def test_the_bytes_of_an_erased_key_are_in_no_file_of_the_folder(tmp_path):
    store = open_store(f"lmdb:{tmp_path}/store")
    keys = [f"somebody-{n:04d}" for n in range(500)]
    write(store, "g1", keys)
    write(store, "g2", keys)
    upsert(store, "g2", keys[100:200])
    store.erase(["somebody-0123"])
    store.close()
    contents = [p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()]
    assert any(b"somebody-0124" in content for content in contents)
    assert not any(b"somebody-0123" in content for content in contents)
    assert any(key_digest("somebody-0123") in content for content in contents)


_STEPS = {
    "lmdb": {
        "tfrec_limaml.store.lmdb_catalog:LmdbCatalog.begin_erasure",
        "tfrec_limaml.store.lmdb_erasure:copy_without",
        "tfrec_limaml.store.lmdb_catalog:LmdbCatalog.replace",
        "tfrec_limaml.store.lmdb_overlay:LmdbOverlays.with_entries",
        "tfrec_limaml.store.lmdb_catalog:LmdbCatalog.end_erasure",
    },
    "redis": {
        "tfrec_limaml.store.redis_erasure:_set_erasing",
        "tfrec_limaml.store.redis_erasure:_fields",
    },
}
STEPS = [
    (kind, step, when)
    for kind, steps in _STEPS.items()
    for step in sorted(steps)
    for when in ("before", "after")
]


def _stop(address, step, when, ready):
    """Erases, and sleeps for good at a step, to be killed there."""
    module, _, path = step.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)

    def stop_here(*args, **kwargs):
        if when == "after":
            original(*args, **kwargs)
        ready.set()
        time.sleep(600)

    setattr(owner, name, stop_here)
    open_store(address).erase(["17"])


@pytest.fixture
def address_of(tmp_path, request):
    """Address of a store of a kind."""

    def make(kind):
        if kind == "lmdb":
            return f"lmdb:{tmp_path}/store"
        server = request.getfixturevalue("redis_server")
        return f"{server.address}?prefix={tmp_path.name}"

    return make


@pytest.mark.parametrize(("kind", "step", "when"), STEPS)
def test_an_erasure_that_is_killed_hides_the_key_and_is_completed_by_the_next(
    address_of, kind, step, when
):
    address = address_of(kind)
    store = open_store(address)
    write(store, "g1")
    write(store, "g2")
    upsert(store, "g2", ["17", "18"])
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_stop, args=(address, step, when, ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    begun = not (kind == "lmdb" and when == "before" and "begin_erasure" in step)
    hidden = begun and not (kind == "redis" and when == "before" and "_set_erasing" in step)
    if hidden:
        assert found(store) == REST
        store.rollback(1)
        assert found(store) == REST
        store.rollback(1, "g2")
    # Another key's erasure does not make readers forget the unfinished one.
    store.erase(["18"])
    if hidden:
        assert found(store) == ["170", "ü*[1]", "ü*[1]|x"]
    store.erase(["17"])
    assert store.search(["17", "18"]) == []
    assert found(store) == ["170", "ü*[1]", "ü*[1]|x"]
    assert [g.count for g in store.generations(1)] == [3, 3]
    if kind == "lmdb":
        store.prune(1)
        names = sorted(p.name for p in Path(address.partition(":")[2], "1").iterdir())
        assert [re.sub("~.*", "", name) for name in names] == ["g1", "g2"]
        assert not any(record.erasing for record in store._catalog.all_records())


def test_readers_and_writers_go_on_while_keys_are_erased(store, open_another):
    keys = [f"k{n}" for n in range(300)]
    write(store, "g000", keys)
    stop, problems = threading.Event(), []
    gone = []

    def look():
        reader = open_another()
        while not stop.is_set():
            before = set(gone)
            hits = set(found(reader, keys))
            if hits & before:
                problems.append(sorted(hits & before))
            if len(hits) < 250:
                problems.append(len(hits))

    def publish():
        writer, number = open_another(), 0
        while not stop.is_set():
            number += 1
            try:
                write(writer, f"g{number:03d}", keys)
            except ErasedMeanwhileError:
                continue
            try:
                writer.prune(1, keep=2, grace_seconds=0)
            except StoreError as error:
                problems.append(error)

    threads = [threading.Thread(target=work) for work in (look, publish)]
    for thread in threads:
        thread.start()
    eraser = open_another()
    for n in range(8):
        eraser.erase([f"k{n}"])
        gone.append(f"k{n}")
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems[:5]
    assert found(store, keys) == keys[8:]
    assert store.search(gone) == []
