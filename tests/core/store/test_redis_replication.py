"""Erasures that a failover would undo are reported: real masters, replicas and sentinels."""

import contextlib
import signal

import numpy as np
import pytest
import redis
from ports import free_port, free_ports, listens
from waiting import wait_for

from tfrec_limaml.errors import StoreError, UnconfirmedErasureError
from tfrec_limaml.store import open_store, redis_replication
from tfrec_limaml.store.erasure import key_digest
from tfrec_limaml.store.redis_replication import Confirmation

NOT_CONFIRMED = r"are erased, but no replica of Redis has confirmed .* within 0\.5 s; repeat"
AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A replica that answers may take its time."""
    monkeypatch.setattr(redis_replication, "WAIT_SECONDS", 60.0)


@pytest.fixture
def short_wait(monkeypatch):
    """``with short_wait():`` waits for a replica that will not answer."""

    @contextlib.contextmanager
    def wait():
        with monkeypatch.context() as patch:
            patch.setattr(redis_replication, "WAIT_SECONDS", 0.5)
            yield

    return wait


@pytest.fixture
def start(start_redis):
    """``start("--replicaof", ...)``: port and process of another server."""

    def start(*options):
        port = free_port()
        return port, start_redis(lambda: listens(port), "--port", str(port), *options)

    return start


def with_key(address):
    store = open_store(address)
    with store.new_generation(1, 2) as writer:
        writer.put(["17", "18"], np.ones((2, 2), np.float32))
        writer.publish(2)
    return store


def replica_of(start, master):
    port, process = start(
        "--replicaof", "127.0.0.1", str(master), "--repl-diskless-sync-delay", "0"
    )
    client = redis.Redis(port=port)
    wait_for(lambda: client.info("replication")["master_link_status"] == "up")
    return client, process


def calls_of_wait(client):
    return client.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"]


def test_a_replica_that_hangs_does_not_confirm_and_the_same_call_later_does(start, short_wait):
    port, _ = start(*AT_ONCE)
    store = with_key(f"redis://127.0.0.1:{port}/0")
    replica, process = replica_of(start, port)
    process.send_signal(signal.SIGSTOP)
    with short_wait(), pytest.raises(UnconfirmedErasureError, match=NOT_CONFIRMED) as caught:
        store.erase(["17"])
    assert [(place.part, place.matched) for place in caught.value.places] == [("data", {"17"})]
    assert store.get_many(["17", "18"], 1)[1].tolist() == [False, True]
    process.send_signal(signal.SIGCONT)
    assert store.erase(["17"]) == []
    assert replica.smembers(store.catalog.erased_key) == {key_digest("17")}


def test_a_replica_that_has_gone_is_missed(start, short_wait):
    port, _ = start(*AT_ONCE)
    store = with_key(f"redis://127.0.0.1:{port}/0?timeout=0.4")
    _, process = replica_of(start, port)
    process.kill()
    wait_for(lambda: store.client.info("replication")["connected_slaves"] == 0)
    with short_wait(), pytest.raises(UnconfirmedErasureError, match=NOT_CONFIRMED):
        store.erase(["17"])


def test_a_server_without_replicas_is_not_asked(start):
    port, _ = start()
    store = with_key(f"redis://127.0.0.1:{port}/0")
    assert len(store.erase(["17"])) == 1
    assert calls_of_wait(store.client) == 0


@pytest.mark.parametrize("known", [False, True])
def test_a_replica_that_only_the_sentinels_know_is_missed(
    start, start_redis, tmp_path, known, short_wait
):
    master, _ = start()
    (port,) = free_ports(1)
    config = tmp_path / "sentinel.conf"
    replica = "sentinel known-replica embeddings 127.0.0.1 1\n" if known else ""
    config.write_text(f"port {port}\nsentinel monitor embeddings 127.0.0.1 {master} 1\n{replica}")
    start_redis(lambda: listens(port), str(config), "--sentinel")
    store = with_key(f"redis-sentinel://127.0.0.1:1,127.0.0.1:{port}/embeddings/0")
    if known:
        with short_wait(), pytest.raises(UnconfirmedErasureError, match=NOT_CONFIRMED):
            store.erase(["17"])
    else:
        assert len(store.erase(["17"])) == 1


def test_in_a_cluster_the_replicas_of_the_keys_master_confirm(start, short_wait):
    def node(name):
        bus = free_port()
        files = ("--cluster-config-file", f"{name}.conf", "--cluster-port", str(bus))
        port, process = start("--cluster-enabled", "yes", *files, *AT_ONCE)
        return redis.Redis(port=port, socket_timeout=5), port, bus, process

    master, port, bus, _ = node("master")
    master.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    replica, _, _, process = node("replica")
    replica.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
    wait_for(lambda: len(replica.cluster("nodes")) == 2)
    wait_for(lambda: master.cluster("info")["cluster_state"] == "ok")
    replica.execute_command("CLUSTER", "REPLICATE", master.execute_command("CLUSTER", "MYID"))
    wait_for(lambda: replica.info("replication").get("master_link_status") == "up")
    wait_for(lambda: any("slave" in node["flags"] for node in master.cluster("nodes").values()))
    store = with_key(f"redis+cluster://127.0.0.1:{port}")
    assert len(store.erase(["17"])) == 1
    assert calls_of_wait(master) >= 1
    master.config_set("repl-backlog-ttl", 1)
    process.kill()
    wait_for(lambda: not master.info("replication")["repl_backlog_active"])
    with short_wait(), pytest.raises(UnconfirmedErasureError, match=NOT_CONFIRMED):
        store.erase(["18"])


def test_a_master_that_took_over_during_the_erasure_is_noticed(start):
    port, _ = start("--enable-debug-command", "yes")
    store = with_key(f"redis://127.0.0.1:{port}/0")
    confirmation = Confirmation(store.catalog)
    assert confirmation.problem() == ""
    store.client.execute_command("DEBUG", "CHANGE-REPL-ID")  # as a promotion does
    assert "another server has become the master during the erasure" in confirmation.problem()


def test_an_account_that_may_not_ask_is_told_what_to_allow(start):
    port, _ = start()
    admin = redis.Redis(port=port)
    admin.acl_setuser(
        "jobs", enabled=True, nopass=True, keys=["limaml*"], commands=["+@all", "-info"]
    )
    store = with_key(f"redis://jobs:x@127.0.0.1:{port}/0")
    with pytest.raises(UnconfirmedErasureError, match=r"the keys are erased, but .*\+info \+wait"):
        store.erase(["17"])
    admin.acl_setuser("jobs", commands=["+info"])
    assert store.erase(["17"]) == []


def test_a_server_without_info_erases_and_says_that_nothing_confirms_it(start):
    port, _ = start("--rename-command", "INFO", "")
    store = with_key(f"redis://127.0.0.1:{port}/0")
    said = r"are erased, but .*not offer INFO and WAIT.*\(unknown command .INFO.\): remove"
    with pytest.raises(UnconfirmedErasureError, match=said) as caught:
        store.erase(["17"])
    assert [(place.part, place.matched) for place in caught.value.places] == [("data", {"17"})]
    assert store.get_many(["17", "18"], 1)[1].tolist() == [False, True]
    assert "sentinel" not in str(caught.value)


def test_a_server_without_wait_erases_and_cannot_confirm_if_it_has_a_replica(start):
    port, _ = start("--rename-command", "WAIT", "", *AT_ONCE)
    store = with_key(f"redis://127.0.0.1:{port}/0")
    assert len(store.erase(["18"])) == 1
    replica_of(start, port)
    with pytest.raises(UnconfirmedErasureError, match=r"\(unknown command .WAIT.\)") as caught:
        store.erase(["17"])
    assert [place.matched for place in caught.value.places] == [{"17"}]


def test_a_master_that_became_a_replica_reports_what_is_erased(start, monkeypatch):
    port, _ = start()
    store = with_key(f"redis://127.0.0.1:{port}/0")
    monkeypatch.setattr(Confirmation, "_should_have_replicas", lambda *_: demoted())

    def demoted():
        store.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        return True

    said = r"are erased, but the server refused to show .* \(ReadOnlyError: .*\); repeat"
    with pytest.raises(UnconfirmedErasureError, match=said) as caught:
        store.erase(["17"])
    assert len(caught.value.places) == 1
    assert "marker" not in str(caught.value)


def test_a_server_that_requires_replicas_refuses_the_erasure_with_the_remedy(start):
    port, _ = start()
    store = with_key(f"redis://127.0.0.1:{port}/0")
    store.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreError, match=r"NOREPLICAS.*try again when replication works"):
        store.erase(["17"])
    assert store.get_many(["17"], 1)[1].all()
