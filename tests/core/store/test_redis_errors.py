"""Errors of Redis name the remedy, and are short."""

import numpy as np
import pytest
from certificates import make_certificates
from ports import free_ports, listens

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store


@pytest.fixture
def sentinel(start_redis, redis_server, tmp_path):
    """Port of a sentinel with a password that knows the service ``embeddings``."""
    (port,) = free_ports(1)
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nrequirepass guard\n"
        f"sentinel monitor embeddings 127.0.0.1 {redis_server.port} 1\n"
    )
    start_redis(lambda: listens(port), str(config), "--sentinel")
    return port


def error_of(address):
    with pytest.raises(StoreError) as caught:
        open_store(address).generations()
    return str(caught.value)


def test_refused_passwords_of_sentinels_are_named_with_their_remedy(sentinel):
    hosts = f"127.0.0.1:{sentinel},127.0.0.1:1"
    for option in ("", "&sentinel_password=wrong"):
        said = error_of(f"redis-sentinel://{hosts}/embeddings/0?timeout=1{option}")
        reasons = f"(127.0.0.1:{sentinel}: AuthenticationError, 127.0.0.1:1: ConnectionError)"
        assert f"No master found for 'embeddings' {reasons}; give the password" in said
        assert "variable REDIS_SENTINEL_PASSWORD, or as sentinel_password" in said
        assert len(said) < 400


def test_sentinels_that_do_not_answer_are_named():
    said = error_of("redis-sentinel://127.0.0.1:1/embeddings/0?timeout=1")
    assert "(127.0.0.1:1: ConnectionError); check HOST:PORT of the sentinels" in said


def test_an_unknown_service_is_named(sentinel):
    said = error_of(f"redis-sentinel://127.0.0.1:{sentinel}/master/0?sentinel_password=guard")
    assert "No master found for 'master'; check the name of the service" in said


def test_a_server_of_data_in_place_of_a_sentinel_is_explained(redis_server):
    said = error_of(f"redis-sentinel://127.0.0.1:{redis_server.port}/embeddings/0")
    assert "names a server of data in place of a sentinel" in said


def test_a_plain_address_of_a_sentinel_or_a_node_names_the_right_form(sentinel, redis_cluster):
    said = error_of(f"redis://:guard@127.0.0.1:{sentinel}/0")
    assert "is a sentinel, write redis-sentinel://HOST:PORT,HOST:PORT/SERVICE/DB" in said
    with pytest.raises(StoreError, match="is a sentinel, write redis-sentinel://HOST:PORT"):
        open_store(f"redis://:guard@127.0.0.1:{sentinel}/0").erase(["17"])
    errors = []
    for node in redis_cluster.split(","):
        try:
            open_store(f"redis://{node}/0").generations()
        except StoreError as error:
            errors.append(str(error))
    assert len(errors) == 2  # the third node holds the keys
    assert all("write redis+cluster://HOST:PORT,HOST:PORT" in said for said in errors)


def test_a_server_of_data_without_a_command_is_not_taken_for_a_sentinel(start_redis):
    (port,) = free_ports(1)
    start_redis(lambda: listens(port), "--port", str(port), "--rename-command", "SCAN", "")
    with pytest.raises(StoreError, match=r"unknown command .SCAN.") as caught:
        open_store(f"redis://127.0.0.1:{port}/0").prune(1)
    assert "sentinel" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("redis-sentinel://127.0.0.1:abc/s/0", "redis-sentinel://.*HOST:PORT,HOST:PORT/SERVICE/DB"),
        ("rediss-sentinel://127.0.0.1:1", "rediss-sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"),
        ("redis+cluster://127.0.0.1:abc", r"redis\+cluster://.*HOST:PORT,HOST:PORT, with a number"),
        ("rediss://127.0.0.1:abc/0", "rediss://.*HOST:PORT/DB, with a number for PORT and DB"),
        ("unix:///nowhere.sock?db=x", r"unix://.*PATH\?db=DB, with a number for DB"),
    ],
)
def test_an_address_that_cannot_be_read_names_the_form_of_its_kind(address, form):
    with pytest.raises(StoreError, match=f"; write {form}|: write {form}"):
        open_store(address)


def test_a_server_with_tls_names_the_scheme_and_the_option_that_the_address_lacks(
    start_redis, tmp_path
):
    (port,) = free_ports(1)
    files = make_certificates(tmp_path, "own", host="IP:127.0.0.1")
    start_redis(
        lambda: listens(port),
        *("--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(files / "ca.pem")),
        *("--tls-cert-file", str(files / "own.pem"), "--tls-key-file", str(files / "own.key")),
    )
    place = f"127.0.0.1:{port}"
    assert "expects TLS, write rediss://" in error_of(f"redis://{place}/0")
    assert "expects TLS, write rediss+cluster://" in error_of(f"redis+cluster://{place}")
    assert "in the option tls_ca of the address" in error_of(f"rediss://{place}/0")
    wrong_host = error_of(f"rediss://localhost:{port}/0?tls_ca={files}/ca.pem")
    assert "certificate verify failed" in wrong_host
    assert "tls_ca" not in wrong_host.partition("did not answer")[2]


@pytest.fixture
def accounts(start_redis, tmp_path):
    """``accounts("+@read")``: a store of an account with these rights on keys of the store."""
    (port,) = free_ports(1)
    start_redis(lambda: listens(port), "--port", str(port))
    everything = open_store(f"redis://127.0.0.1:{port}/0")
    opened = [everything]

    def store(*rights):
        name = f"account{len(opened)}"
        everything.client.execute_command(
            *("ACL", "SETUSER", name, "on", ">s3cret", "~limaml:*", *rights)
        )
        opened.append(open_store(f"redis://{name}:s3cret@127.0.0.1:{port}/0"))
        return opened[-1]

    yield store
    for each in opened:
        each.close()


def publish(store, identifier=None):
    with store.new_generation(1, 2, identifier) as writer:
        writer.put(["17", "42"], np.ones((2, 2), np.float32))
        return writer.publish(2).identifier


def test_a_right_that_a_publication_lacks_is_named_when_the_generation_is_opened(accounts):
    with pytest.raises(StoreError, match=r"'watch' command; allow it: `ACL SETUSER NAME \+@tra"):
        accounts("+@read", "+@write").new_generation(1, 2, "a")
    with pytest.raises(StoreError, match=r"allow it: `ACL SETUSER NAME \+set`"):
        accounts("+@read").new_generation(1, 2)
    complete = accounts("+@read", "+@write", "+@transaction")
    assert publish(complete, "a") == "a"  # the refused writer holds it no longer


def test_refused_keys_name_the_prefix_to_allow(accounts):
    account = accounts("+@all", "resetkeys", "~other:*")
    with pytest.raises(StoreError, match=r"ACL SETUSER NAME ~PREFIX:\*`, with the store's pre"):
        account.generations()


READ = ("+@read", "+@connection")
WRITE = (*READ, "+@write", "+@transaction")


def test_the_documented_rights_are_enough_for_their_task(accounts):
    reader, refresh, erase = accounts(*READ), accounts(*WRITE), accounts(*WRITE, "+info", "+wait")
    name = publish(refresh)
    for event_time in (10**15, 10**15 + 1):
        vectors = np.zeros((1, 2), np.float32)
        assert refresh.upsert(1, name, ["17"], vectors, [event_time]).applied == 1
    assert publish(refresh) != name
    assert reader.get_many(["17", "42"], 1)[0].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert len(reader.generations()) == 2
    refresh.rollback(1, name)
    assert len(refresh.prune(1, 1, 0.0)) == 1
    assert erase.erase(["42"])
    assert reader.get_many(["17", "42"], 1)[1].tolist() == [True, False]
