"""Large overlays of the Redis backend: read and written in parts, and taken over as a whole."""

import numpy as np
import pytest
import redis

from tfrec_limaml.errors import ErasedMeanwhileError
from tfrec_limaml.store import open_store, redis_overlay_reader, redis_take_over

KEYS = [f"k{n}" for n in range(1500)]


@pytest.fixture
def store(redis_server, tmp_path):
    """A store whose generation g1 has an overlay of all keys, with value 1 and time 10."""
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    publish(store, "g1")
    upsert(store, "g1", KEYS, 1, 10)
    yield store
    store.close()


def publish(store, generation, meanwhile=lambda: None):
    """A generation with the key k0 of value 0; its data are older than all entries."""
    with store.new_generation(1, 2, generation) as writer:
        writer.put(["k0"], np.zeros((1, 2), np.float32))
        meanwhile()
        writer.publish(1, lambda keys: np.zeros(len(keys), np.int64))


def upsert(store, generation, keys, value, time):
    vectors = np.full((len(keys), 2), value, np.float32)
    store.upsert(1, generation, keys, vectors, [time] * len(keys))


def read(store, *keys):
    matrix, found = store.get_many(keys, 1)
    return [float(row[0]) if hit else None for row, hit in zip(matrix, found, strict=True)]


def overlays(store):
    """The Redis keys of overlays that do not expire within a minute, and of their logs."""
    found = store.client.scan_iter(match=store.catalog.key(1, "overlay:*"))
    return [key for key in found if store.client.ttl(key) > 60]


def test_the_transaction_of_a_publication_does_not_grow_with_the_overlay(store, monkeypatch):
    execute, commands = redis.client.Pipeline.execute, []

    def observed(pipeline, *arguments, **options):
        if pipeline.explicit_transaction:
            commands.append(len(pipeline.command_stack))
        return execute(pipeline, *arguments, **options)

    monkeypatch.setattr(redis.client.Pipeline, "execute", observed)
    before = store.client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0)
    publish(store, "g2")
    _, count = commands  # the first one opens the generation
    assert count < 12
    assert store.client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0) == before
    assert read(store, *KEYS) == [1.0] * len(KEYS)
    assert len(overlays(store)) == 2
    assert min(map(store.client.ttl, overlays(store))) > 24 * 3600


def test_entries_that_come_while_an_overlay_is_copied_are_taken_over_too(store, monkeypatch):
    entries, writes, times = redis_take_over.overlay_entries, [], iter([30, 20])
    write = redis_take_over.write

    def entries_and_upserts(client, key):
        yield from entries(client, key)
        for time in times:  # after the first reading, and after the second
            upsert(store, "g1", ["k1", f"new {time}"], time, time)
            break

    def observed(pipeline, catalog, record, written, *more):
        writes.append(sorted(written))
        write(pipeline, catalog, record, written, *more)

    monkeypatch.setattr(redis_take_over, "overlay_entries", entries_and_upserts)
    monkeypatch.setattr(redis_take_over, "write", observed)
    publish(store, "g2")
    assert read(store, "k0", "k1", "k2", "new 20", "new 30") == [1, 30, 1, 20, 30]
    assert list(map(len, writes)) == [len(KEYS), 2, 1]
    log = [key for key in overlays(store) if key.endswith(b":keys")]
    assert [store.client.llen(key) for key in log] == [1 + len(KEYS) + 2]


def test_a_publication_that_is_refused_leaves_no_copy(store, monkeypatch):
    entries = redis_take_over.overlay_entries

    def entries_then_erasure(client, key):
        yield from entries(client, key)
        store.erase(["k7"])

    monkeypatch.setattr(redis_take_over, "overlay_entries", entries_then_erasure)
    with pytest.raises(ErasedMeanwhileError):
        publish(store, "g2")
    assert len(overlays(store)) == 2  # of g1
    assert read(store, "k6", "k7", "k8") == [1, None, 1]


def test_a_publication_whose_answer_was_lost_is_done(store, monkeypatch):
    execute, lost = redis.client.Pipeline.execute, []

    def lose_answer(pipeline, *arguments, **options):
        is_transaction = pipeline.explicit_transaction
        answers = execute(pipeline, *arguments, **options)
        if is_transaction and not lost:
            lost.append(answers)
            raise redis.WatchError("A TimeoutError occurred while watching one or more keys")
        return answers

    def wait_for_publication():
        monkeypatch.setattr(redis.client.Pipeline, "execute", lose_answer)

    publish(store, "g2", meanwhile=wait_for_publication)
    assert lost
    assert store.current(1).identifier == "g2"
    assert read(store, *KEYS) == [1.0] * len(KEYS)


@pytest.mark.parametrize("items", [100, 1501, 1502])  # the log has 1501
def test_a_client_reads_a_long_log_in_parts(store, redis_server, tmp_path, monkeypatch, items):
    monkeypatch.setattr(redis_overlay_reader, "LOG_ITEMS", items)
    reader = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    parse, parts = reader.client.parse_response, []

    def observed(connection, command, **options):
        answer = parse(connection, command, **options)
        if command == "LRANGE":
            parts.append(len(answer))
        return answer

    monkeypatch.setattr(reader.client, "parse_response", observed)
    assert read(reader, "k1499", "nobody", "k0") == [1, None, 1]
    upsert(store, "g1", ["new"], 2, 20)
    assert read(reader, "new", "k1499") == [2, 1]
    assert max(parts, default=0) <= items
    assert (len(parts) > 10) is (items == 100)
    reader.close()
