"""The folder backend after power failures, killed readers and damage, and at its limits."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path

import lmdb
import numpy as np
import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import generation_rules, lmdb_environment, open_store
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog


def write(store, identifier, rows=100, width=2):
    with store.new_generation(1, width, identifier) as writer:
        writer.put([str(n) for n in range(rows)], np.ones((rows, width), np.float32))
        return writer.publish(rows)


def upsert(store, keys, value, width=2):
    vectors = np.full((len(keys), width), value, np.float32)
    return store.upsert(1, "g1", keys, vectors, [int(value)] * len(keys))


@pytest.fixture
def two_generations(tmp_path):
    """A closed store of ``g1`` and ``g2``, both with the key ``17``."""
    with contextlib.closing(open_store(f"lmdb:{tmp_path}/store")) as store:
        write(store, "g1", 2000)
        write(store, "g2")
    return tmp_path / "store"


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {"truncated": truncate, "missing": Path.unlink}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_generation_that_cannot_be_read_ends_an_erasure_and_the_next_completes_it(
    two_generations, damage
):
    file, copy = two_generations / "1" / "g1" / "data.mdb", two_generations.parent / "copy"
    shutil.copyfile(file, copy)
    DAMAGE[damage](file)
    with contextlib.closing(open_store(f"lmdb:{two_generations}")) as store:
        for use in (store.erase, store.search):
            with pytest.raises(StoreError, match=r"cannot search .*1/g1.*restore it from a copy"):
                use(["17"])
        assert store.get_many(["17"], 1)[1].tolist() == [False]
    shutil.copyfile(copy, file)
    with contextlib.closing(open_store(f"lmdb:{two_generations}")) as store:
        assert store.rollback(1).identifier == "g1"
        assert store.get_many(["17", "18"], 1)[1].tolist() == [False, True]
        assert [place.generation for place in store.erase(["17"])] == ["g1", "g2"]
        assert store.search(["17"]) == []


def test_an_overlay_that_cannot_be_read_ends_an_erasure(tmp_path):
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        upsert(store, ["17"], 2)
    next((tmp_path / "overlays" / "1").glob("*/data.mdb")).unlink()
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        for use in (store.erase, store.search):
            with pytest.raises(StoreError, match=r"cannot search .*g1"):
                use(["17"])


def test_a_generation_that_is_pruned_during_a_search_is_left_out(two_generations, monkeypatch):
    with contextlib.closing(open_store(f"lmdb:{two_generations}")) as store:
        all_records = store._catalog.all_records

        def records_then_pruned():
            records = all_records()
            store.prune(1, keep=1, grace_seconds=0)
            return records

        monkeypatch.setattr(store._catalog, "all_records", records_then_pruned)
        assert [place.generation for place in store.search(["17"])] == ["g2"]


@contextlib.contextmanager
def limited_addresses(more):
    """A limit on this process's address space, this many bytes above its use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("more", [1 << 30, 1 << 36])  # too little for the catalog, or for the data
def test_a_limit_on_address_space_is_named_and_erases_nothing_in_silence(two_generations, more):
    with contextlib.closing(open_store(f"lmdb:{two_generations}")) as store:
        for use in (store.erase, store.search, lambda keys: store.get_many(keys, 1)):
            with (
                limited_addresses(more),
                pytest.raises(StoreError, match="ulimit -v unlimited"),
            ):
                use(["17"])


def test_the_catalog_takes_millions_of_erased_keys_and_little_disk(tmp_path):
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        store.erase(["17"])
        environment = store._environments.open_environment(tmp_path / "catalog")
        assert environment.info()["map_size"] >= 1 << 32
        assert (tmp_path / "catalog" / "data.mdb").stat().st_blocks * 512 < 1 << 20


def test_a_full_catalog_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_environment, "_CATALOG_MAP_BYTES", 1 << 17)
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        with pytest.raises(StoreError, match=r"it is full.*publish into a new folder"):
            store.erase([f"member {n}" for n in range(5000)])
        assert store.get_many(["17"], 1)[1].all()


def _read_on(path, ready):
    """Begins a look-up that does not end."""
    transaction = lmdb.open(path, max_readers=1024).begin()
    next(iter(transaction.cursor()))
    ready.set()
    signal.pause()


@pytest.mark.parametrize("part", ["overlay", "catalog"])
def test_a_reader_that_is_killed_holds_no_pages(tmp_path, part):
    store = open_store(f"lmdb:{tmp_path}")
    write(store, "g1", width=32)
    keys = [str(n) for n in range(500)]
    upsert(store, keys, 1, 32)
    file = next(tmp_path.glob("overlays/1/*/data.mdb" if part == "overlay" else "catalog/data.mdb"))
    store.close()
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_read_on, args=(str(file.parent), ready))
    process.start()
    assert ready.wait(60)
    store = open_store(f"lmdb:{tmp_path}")

    def change(n):
        if part == "overlay":
            upsert(store, keys, n, 32)
        else:
            store._catalog.begin_erasure([os.urandom(16)])

    change(2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = file.stat().st_size
    for n in range(40):
        change(3 + n)
    store.close()
    assert file.stat().st_size < 2 * before


@pytest.fixture
def overlay(tmp_path):
    """The folder of an overlay with the keys ``3`` and ``new``, in a closed store."""
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        upsert(store, ["3", "new"], 2)
    return next((tmp_path / "overlays" / "1").iterdir())


COUNTS = {"empty": b"", "short": b"\2\0", "behind": bytes(8), "missing": None}


@pytest.mark.parametrize("count", sorted(COUNTS))
def test_upserts_are_found_whatever_a_power_failure_left_of_their_number(tmp_path, overlay, count):
    if COUNTS[count] is None:
        (overlay / "count").unlink()
    else:
        (overlay / "count").write_bytes(COUNTS[count])
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        assert store.get_many(["3", "new", "4"], 1)[0].tolist() == [[2, 2], [2, 2], [1, 1]]
        upsert(store, ["later", "3"], 3)
        assert store.get_many(["3", "later"], 1)[0].tolist() == [[3, 3], [3, 3]]
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        assert store.get_many(["3", "new", "later"], 1)[0].tolist() == [[3, 3], [2, 2], [3, 3]]
    assert (overlay / "count").read_bytes() == (3).to_bytes(8, "little")


def test_the_number_of_upserts_is_on_the_disk_before_a_record_names_them(tmp_path, monkeypatch):
    synced, replace, fsync = [], LmdbCatalog.replace, os.fsync

    def record_sync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_replace(self, record):
        synced.append("record")
        replace(self, record)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(LmdbCatalog, "replace", record_replace)
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        upsert(store, ["3"], 2)
    assert synced == ["count", "record"]


def test_data_are_on_the_disk_before_a_record_names_them(tmp_path, monkeypatch):
    events, opened = [], lmdb_environment.open_writable

    class Observed:
        """An environment that notes when it is written to the disk."""

        def __init__(self, path):
            self._environment = opened(path)

        def sync(self, force):
            self._environment.sync(force)
            events.append("disk")

        def __getattr__(self, name):
            return getattr(self._environment, name)

    def noted(method):
        def call(*arguments):
            events.append("record")
            return method(*arguments)

        return call

    monkeypatch.setattr(lmdb_environment, "open_writable", Observed)
    for name in ("publish", "replace"):
        monkeypatch.setattr(LmdbCatalog, name, noted(getattr(LmdbCatalog, name)))
    with contextlib.closing(open_store(f"lmdb:{tmp_path}")) as store:
        write(store, "g1")
        assert events == ["disk", "record"]
        store.erase(["0"])
    assert events == ["disk", "record"] * 2


def test_a_generation_of_an_older_release_that_is_named_like_a_lock_is_no_lock(
    tmp_path, monkeypatch
):
    with contextlib.closing(open_store(f"lmdb:{tmp_path}/store")) as store:
        with monkeypatch.context() as older:
            older.setattr(generation_rules, "choose_identifier", lambda name, published: name)
            write(store, "5.lock")
        write(store, "6")
        assert [place.generation for place in store.erase(["17"])] == ["5.lock", "6"]
        assert store.prune(1, 1, 0.0) == ["5.lock"]
        assert [generation.identifier for generation in store.generations(1)] == ["6"]
        (folder,) = os.listdir(tmp_path / "store" / "1")
        assert folder.startswith("6~")  # rewritten without the erased key
