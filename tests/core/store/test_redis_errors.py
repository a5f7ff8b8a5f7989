"""Errors of Redis name the remedy, and are short."""

import pytest
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
