"""Changes of other clients in the middle of a change of a Redis store."""

import numpy as np
import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import Upserted, open_store, overlay, redis_erasure, redis_take_over

KEYS = ["a", "b"]


@pytest.fixture
def open_client(redis_server, tmp_path):
    """Opens a client of the store under test."""
    opened = []

    def another():
        opened.append(open_store(f"{redis_server.address}?prefix={tmp_path.name}&ttl=1000"))
        return opened[-1]

    yield another
    for each in opened:
        each.close()


@pytest.fixture
def store(open_client):
    return open_client()


def publish(store, generation, value):
    """A generation whose data are older than all entries of overlays."""
    with store.new_generation(1, 2, generation) as writer:
        writer.put(KEYS, np.full((len(KEYS), 2), value, np.float32))
        writer.publish(len(KEYS), lambda keys: np.zeros(len(keys), np.int64))


def upsert(store, generation, key, value):
    """The value is the event's time, too."""
    return store.upsert(1, generation, [key], np.full((1, 2), value, np.float32), [value])


def read(store, *keys):
    matrix, found = store.get_many(keys, 1)
    return [float(row[0]) if hit else None for row, hit in zip(matrix, found, strict=True)]


def once(change):
    """A function that makes a change at its first call."""
    changes = iter([change])
    return lambda: next(changes, lambda: None)()


def after_reading_entries(monkeypatch, module, change):
    """Makes a change once, as soon as a module has read the entries of an overlay."""
    entries, change = module.overlay_entries, once(change)

    def entries_then_change(client, key):
        yield from entries(client, key)
        change()

    monkeypatch.setattr(module, "overlay_entries", entries_then_change)


def test_of_two_upserts_at_once_the_newer_event_wins(store, open_client, monkeypatch):
    publish(store, "g1", 1)
    upsert(store, "g1", "a", 10)
    other, newer_entries = open_client(), overlay.newer_entries
    change = once(lambda: upsert(other, "g1", "a", 30))

    def compare_then_change(*arguments):
        result = newer_entries(*arguments)
        change()
        return result

    monkeypatch.setattr(overlay, "newer_entries", compare_then_change)
    assert upsert(store, "g1", "a", 20) == Upserted(applied=0, older=1, erased=0)
    assert read(store, "a") == [30]


def test_an_upsert_while_an_overlay_is_rewritten_by_an_erasure_is_not_lost(
    store, open_client, monkeypatch
):
    publish(store, "g1", 1)
    upsert(store, "g1", "a", 10)
    upsert(store, "g1", "b", 10)
    other = open_client()
    after_reading_entries(monkeypatch, redis_erasure, lambda: upsert(other, "g1", "b", 20))
    store.erase(["a"])
    assert read(store, "a", "b") == [None, 20]


@pytest.mark.parametrize("upserted", [False, True])
def test_a_publication_takes_nothing_over_from_a_generation_that_is_rolled_back_meanwhile(
    store, open_client, monkeypatch, upserted
):
    publish(store, "g0", 0)
    publish(store, "g1", 1)
    upsert(store, "g1", "a", 10)
    other = open_client()

    def roll_back():
        other.rollback(1)
        if upserted:
            upsert(other, "g0", "b", 20)

    after_reading_entries(monkeypatch, redis_take_over, roll_back)
    publish(store, "g2", 2)
    assert read(store, *KEYS) == [2, 20 if upserted else 2]
    copies = [name for name, _ in store.catalog.hashes(1, "overlay") if name == "g2"]
    assert len(copies) == upserted


def test_data_that_are_published_while_remains_are_removed_stay(store, open_client, monkeypatch):
    writer = open_client().new_generation(1, 2, "g1")
    writer.put(KEYS, np.ones((2, 2), np.float32))
    records, change = store.catalog.records, once(lambda: writer.publish(2))

    def records_then_publication(version):
        found = records(version)
        change()
        return found

    monkeypatch.setattr(store.catalog, "records", records_then_publication)
    store.prune(1)
    assert read(store, *KEYS) == [1, 1]


def test_a_writer_that_lost_its_lease_does_not_remove_what_its_successor_writes(store, open_client):
    slow = store.new_generation(1, 2, "g1")
    store.client.delete(store.catalog.key(1, "writer:g1"))  # as if it had run out
    with open_client().new_generation(1, 2, "g1") as fast:
        fast.put(KEYS, np.ones((2, 2), np.float32))
        slow.abort()
        with pytest.raises(StoreError, match="held by another process"):
            store.new_generation(1, 2, "g1")
        fast.publish(2)
    assert read(store, *KEYS) == [1, 1]


def test_each_write_renews_the_lease(store):
    with store.new_generation(1, 2, "g1") as writer:
        lease = store.catalog.key(1, "writer:g1")
        for _ in range(2):
            store.client.pexpire(lease, 60_000)
            writer.put(KEYS, np.ones((2, 2), np.float32))
            assert store.client.ttl(lease) > 100


def test_pointer_and_overlay_expire_with_their_data_whatever_is_changed(store):
    """A pointer to data that are gone is an error: without both, members are unknown."""

    def check(*identifiers):
        catalog = store.catalog
        names = [catalog.key(1, "current")]
        for identifier in identifiers:
            names.append(catalog.data_key(1, identifier))
            (record,) = (r for r in catalog.records(1) if r.identifier == identifier)
            if record.overlay:
                names += [catalog.overlay_key(record), catalog.log_key(record)]
        assert all(0 < store.client.ttl(name) <= 1000 for name in names)
        return len(names)

    publish(store, "g1", 1)
    assert check("g1") == 2
    upsert(store, "g1", "a", 10)
    assert check("g1") == 4
    upsert(store, "g1", "b", 10)
    assert check("g1") == 4
    store.erase(["a"])
    assert check("g1") == 4
    publish(store, "g2", 2)
    assert check("g1", "g2") == 5
    store.rollback(1)
    assert check("g1", "g2") == 3
