"""What only the Redis backend promises."""

import dataclasses

import numpy as np
import pytest
import redis
from waiting import wait_for

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store


@pytest.fixture
def own_server(redis_server, tmp_path):
    """A server of this test alone, for stopping."""
    server = type(redis_server)(tmp_path)
    server.start()
    yield server
    server.stop()


def write(store, value, rows=4):
    with store.new_generation(1, 2) as writer:
        writer.put([str(n) for n in range(rows)], np.full((rows, 2), value, np.float32))
        return writer.publish(rows)


def test_a_server_that_went_away_is_an_error_and_its_return_needs_no_new_client(own_server):
    store = open_store(own_server.address)
    write(store, 1)
    assert store.get_many(["0"], 1)[1].all()
    writer = store.new_generation(1, 2)
    own_server.stop()
    for use in (
        lambda: store.get_many(["0"], 1),
        lambda: writer.put(["0"], np.ones((1, 2), np.float32)),
        lambda: store.current(1),
    ):
        with pytest.raises(StoreError, match=r"127\.0\.0\.1.*did not answer"):
            use()
    writer.abort()
    own_server.start()
    assert store.current(1) is None
    write(store, 2)
    assert store.get_many(["0"], 1)[0][0, 0] == 2


def test_a_full_server_can_be_pruned(own_server):
    store = open_store(own_server.address)
    rows = 20_000
    names = [write(store, value, rows).identifier for value in (1, 2)]
    store.client.config_set("maxmemory", store.client.info("memory")["used_memory"] - 500_000)
    with pytest.raises(StoreError, match=r"used memory.*raise maxmemory, or free a gen"):
        write(store, 3, rows)
    assert store.prune(1, 1, 0.0) == names[:1]
    assert [generation.identifier for generation in store.generations(1)] == names[1:]
    assert store.get_many(["0"], 1)[0][0, 0] == 2
    store.client.config_set("maxmemory", 0)
    assert write(store, 3, rows)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("allkeys-lru", "policy allkeys-lru: .* evicts embeddings, .* erased keys return; set"),
        ("volatile-lru", "policy volatile-lru: .* evicts embeddings, .* not personalised; set"),
    ],
)
def test_a_publication_warns_of_a_server_that_may_evict_it(own_server, policy, said, recwarn):
    store = open_store(own_server.address)
    store.client.config_set("maxmemory-policy", policy)
    write(store, 1)  # without a limit nothing is evicted
    store.client.config_set("maxmemory", "100mb")
    store.client.config_set("maxmemory-policy", "noeviction")
    write(store, 2)
    assert not recwarn.list
    store.client.config_set("maxmemory-policy", policy)
    with pytest.warns(UserWarning, match=said):
        write(store, 3)


def test_a_publication_needs_no_right_to_ask_for_the_policy(own_server, recwarn):
    admin = redis.Redis(port=own_server.port)
    rights = {"keys": ["limaml*"], "commands": ["+@all", "-info"]}
    admin.acl_setuser("jobs", enabled=True, nopass=True, **rights)
    store = open_store(f"redis://jobs:x@127.0.0.1:{own_server.port}/0")
    assert write(store, 1).state == "current"
    assert not recwarn.list


def test_a_generation_outlives_its_job_no_longer_than_its_ttl(redis_server, tmp_path):
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}&ttl=1")
    write(store, 1)
    wait_for(lambda: not store.get_many(["0"], 1)[1].any())
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}&ttl=60")
    write(store, 1)
    assert store.get_many(["0"], 1)[1].all()


def test_a_writer_that_lost_its_lease_may_not_publish(redis_server, tmp_path):
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    with store.new_generation(1, 1, "g1") as slow:
        slow.put(["a"], np.ones((1, 1), np.float32))
        leases = list(store.client.scan_iter(f"*{tmp_path.name}*:writer:g1"))
        assert store.client.delete(*leases) == 1  # as if it had run out
        with store.new_generation(1, 1, "g1") as fast:
            fast.put(["b"], np.ones((1, 1), np.float32))
            with pytest.raises(StoreError, match="lease"):
                slow.publish()
            fast.publish(1)
    assert store.get_many(["a", "b"], 1)[1].tolist() == [False, True]


def test_a_lease_whose_answer_was_lost_is_the_writers_own(redis_server, tmp_path, monkeypatch):
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    parse, lost = store.client.parse_response, []

    def lose_first_answer(connection, command, **options):
        answer = parse(connection, command, **options)
        if command == "SET" and not lost:
            lost.append(answer)
            raise redis.TimeoutError("Timeout reading from socket")
        return answer

    monkeypatch.setattr(store.client, "parse_response", lose_first_answer)
    with store.new_generation(1, 1, "g1") as writer:
        assert lost == [True]
        with pytest.raises(StoreError, match="held by another process"):
            store.new_generation(1, 1, "g1")
        writer.put(["a"], np.ones((1, 1), np.float32))
        writer.publish(1)
    assert store.get_many(["a"], 1)[1].all()


def test_prefixes_with_pattern_characters_do_not_touch_each_other(redis_server, tmp_path):
    plain = open_store(f"{redis_server.address}?prefix={tmp_path.name}ax")
    starred = open_store(f"{redis_server.address}?prefix={tmp_path.name}a*&lease=0.1")
    with plain.new_generation(1, 1, "g1") as writer:
        writer.put(["a"], np.ones((1, 1), np.float32))
        starred.prune(1)
        assert writer.publish(1).count == 1


def test_the_password_stays_out_of_error_messages(redis_server):
    store = open_store(f"redis://someone:secret@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(StoreError) as caught:
        store.current(1)
    assert "secret" not in str(caught.value)


def test_a_refused_account_is_explained(redis_server):
    store = open_store(f"redis://someone:secret@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(StoreError, match="give user and password in the address"):
        store.current(1)


def test_keys_and_vectors_of_members_stay_out_of_error_messages(own_server):
    store = open_store(own_server.address)
    generation = write(store, 1).identifier
    writer, vector = store.new_generation(1, 2), np.ones((1, 2), np.float32)
    store.client.replicaof("127.0.0.1", 1)  # a replica takes no writes
    for use in (
        lambda: store.upsert(1, generation, ["member-17"], vector, [1]),
        lambda: writer.put(["member-17"], vector),
    ):
        with pytest.raises(StoreError, match=r"read only replica.*address of the master") as caught:
            use()
        assert "member" not in str(caught.value)
        assert "pipeline" not in str(caught.value)


@pytest.fixture
def beside_an_erasure(redis_server, tmp_path, monkeypatch):
    """A store of three generations, and their names; after the next reading of the records, an
    erasure changes them.
    """
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    names = [write(store, value).identifier for value in (1, 2, 3)]
    records = store.catalog.records

    def records_then_erasure(version):
        monkeypatch.setattr(store.catalog, "records", records)
        read = records(version)
        store.erase(["0"])
        record = dataclasses.replace(records(1)[1], erasing=True)  # as if it had not ended
        generations = store.catalog.key(1, "generations")
        store.client.hset(generations, record.identifier, record.to_bytes())
        return read

    monkeypatch.setattr(store.catalog, "records", records_then_erasure)
    monkeypatch.setattr(store.catalog, "remove_dead", lambda version: None)
    return store, names


@pytest.mark.parametrize("change", ["rollback", "condemn"])
def test_a_change_beside_an_erasure_is_refused_and_loses_nothing(beside_an_erasure, change):
    store, names = beside_an_erasure
    arguments = {"rollback": (1,), "condemn": (1, names[1])}[change]
    with pytest.raises(StoreError, match="erased from in the meantime; try again"):
        getattr(store, change)(*arguments)
    assert [record.erasing for record in store.catalog.records(1)] == [False, True, False]


def test_pruning_beside_an_erasure_reads_again_and_prunes(beside_an_erasure):
    store, names = beside_an_erasure
    assert store.prune(1, 1, 0.0) == names[:2]
    assert [record.identifier for record in store.catalog.records(1)] == names[2:]
    assert store.search(["0"]) == []
