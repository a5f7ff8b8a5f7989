"""Store addresses: what each means, what is refused, and that no password is ever shown."""

from urllib.parse import quote

import numpy as np
import pytest
import redis.crc
from certificates import make_certificates
from ports import free_port, free_ports, listens

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store
from tfrec_limaml.store.secrets import masked


@pytest.mark.parametrize(
    "address",
    [
        "redis://:s3cr/et@127.0.0.1:1/0",
        "redis://:s3cr@et@127.0.0.1:1/0",
        "redis://:s3cr%40et@127.0.0.1:1/0",
        "redis://user:s3cret@127.0.0.1:port/0",
        "redis://user:s3cret@127.0.0.1:1/0?colour=red",
        "redis://user:s3cret@127.0.0.1:1/0?password=s3cret",
        "redis://user:s3cret@127.0.0.1:1/0?ttl=inf",
        "redis://user:s3cret@127.0.0.1:1/0?tls_ca=x",
        "redis-sentinel://user:s3cret@127.0.0.1:1",
        "redis-sentinel://user:s3cret@127.0.0.1:1/master",
        "redis-sentinel://user:s3cret@127.0.0.1:1/master?sentinel_password=s3cr%40et",
        "redis-sentinel://127.0.0.1:1/master?sentinel_user=u&sentinel_password=s3cret&ttl=x",
        "redis://127.0.0.1:1/0?sentinel_password=s3cret",
        "redis-cluster://user:s3cret@127.0.0.1:1",
        "redis+cluster://user:s3cret@127.0.0.1:1",
        "redis+cluster://user:s3cret@127.0.0.1:1/3",
        "rediss+cluster://user:s3cret@127.0.0.1:port",
        "rediss-sentinel://user:s3cret@127.0.0.1:1/master",
        "unix://user:s3cret@/nowhere.sock?db=x",
        "unix://user:s3cret@/nowhere.sock",
        "redis://:my s3cret@127.0.0.1:1/0",
        "redis://:s3cr et@127.0.0.1:1/0",
        "redis://:s3cr\tet@127.0.0.1:port/0",
        "redis://:my?s3cret@127.0.0.1:1/0",
        "redis://:my#s3cret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0#password=s3cret",
        "redis:/:s3cret@127.0.0.1:1/0",
        "redis::s3cret@127.0.0.1:1/0",
        ":s3cret@127.0.0.1:1/0",
    ],
)
def test_no_error_shows_a_password(address):
    with pytest.raises(StoreError) as caught:
        open_store(f"{address}{'&' if '?' in address else '?'}timeout=0.2").current(1)
    seen, error = [], caught.value
    while error is not None:
        seen.append(str(error))
        error = error.__cause__
    assert not [text for text in seen if "s3cr" in text]


@pytest.mark.parametrize("name", ["store", "a folder?dtype=float16", "lmdb:a%20b"])
def test_a_path_is_the_folder_of_a_local_store(tmp_path, name):
    with (
        open_store(tmp_path / name) as store,
        store.new_generation(1, 2) as writer,
    ):
        writer.put(["a"], np.ones((1, 2), np.float32))
        writer.publish(1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    address = "lmdb:" + quote(str(tmp_path / name))
    with open_store(address) as store:
        assert store.get_many(["a"], 1)[1].all()


def test_a_text_that_quotes_an_address_is_masked():
    assert masked("at redis://u:p@h:1/0 now") == "at redis://***@h:1/0 now"
    assert masked("redis://h:1/0?password=p&db=1") == "redis://h:1/0?password=***&db=1"
    assert masked("lmdb:/a/b") == "lmdb:/a/b"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("lmdb:///d1/s@x", "lmdb:///d1/s@x"),
        ("redis://h1:6379/0?prefix=a@eu", "redis://h1:6379/0?prefix=a@eu"),
        ("redis://u:p/w?d@h:1/0?ttl=9&prefix=a@eu", "redis://***@h:1/0?ttl=9&prefix=a@eu"),
        ("redis:/:hunter2@h", "redis:/***@h"),
        ("redis::hunter2@h", "redis:***@h"),
        ("user:hunter2@h:1/0", "***@h:1/0"),
    ],
)
def test_a_mask_hides_the_account_and_nothing_else(address, shown):
    assert masked(address) == shown


def test_a_folder_may_have_spaces_and_an_at_sign(tmp_path):
    assert use(open_store(f"lmdb:{tmp_path}/my store@home")) == [[1.0, 1.0]]


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0", "1e300"])
@pytest.mark.parametrize("option", ["ttl", "lease", "timeout"])
def test_times_must_be_finite_and_positive(option, value):
    with pytest.raises(StoreError, match=f"{option} must be a positive number of seconds"):
        open_store(f"redis://127.0.0.1:1/0?{option}={value}")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("redis://127.0.0.1:1/0?tls_ca=ca.pem", "need a rediss://"),
        ("rediss://127.0.0.1:1/0?tls_ca=/nowhere/ca.pem", "tls_ca: no file '/nowhere/ca.pem'"),
        ("redis://127.0.0.1:1/0?db=3", "is for unix://"),
        ("redis-cluster://127.0.0.1:1", r"also unix://, redis-sentinel:// and redis\+cluster://"),
        ("redis+cluster://127.0.0.1:1/2", "must name nodes and no database"),
        ("redis+cluster://127.0.0.1:1?db=2", "is for unix://"),
        ("redis+cluster://127.0.0.1:1?tls_ca=ca.pem", "need a rediss://"),
        ("redis-sentinel://127.0.0.1:26379", "names no service"),
        ("redis://127.0.0.1:1/0?sentinel_password=x", "are for redis-sentinel:// addresses"),
    ],
)
def test_what_an_address_cannot_say_is_explained(address, message):
    with pytest.raises(StoreError, match=message):
        open_store(address)


@pytest.mark.parametrize(
    "address",
    [
        "redis://127.0.0.1:1/prod",
        "redis://127.0.0.1:1/1x",
        "redis://127.0.0.1:1/0/1",
        "redis://127.0.0.1:1/-1",
        "rediss://127.0.0.1:1/\u00b2",
        "unix:///nowhere.sock?db=-1",
        "redis-sentinel://127.0.0.1:1/master/1_0",
    ],
)
def test_a_database_is_a_number_and_never_silently_the_first_one(address):
    with pytest.raises(StoreError, match=r"with a number for .*DB"):
        open_store(address)


@pytest.mark.parametrize(("path", "number"), [("", 0), ("/", 0), ("/0", 0), ("/12", 12)])
def test_the_path_of_an_address_is_the_database(path, number):
    store = open_store(f"redis://127.0.0.1:1{path}")
    assert store.client.connection_pool.connection_kwargs.get("db", 0) == number


def use(store):
    with store.new_generation(1, 2) as writer:
        writer.put(["a"], np.ones((1, 2), np.float32))
        writer.publish(1)
    return store.get_many(["a"], 1)[0].tolist()


def test_a_socket_file_is_an_address_with_password_and_database(start_redis, tmp_path):
    path = tmp_path / "redis.sock"
    start_redis(path.exists, "--port", "0", "--unixsocket", str(path), "--requirepass", "s3cret")
    assert use(open_store(f"unix://:s3cret@{path}?db=3&prefix=p")) == [[1.0, 1.0]]
    with pytest.raises(StoreError) as caught:
        open_store(f"unix://:wrong@{path}").current(1)
    assert "wrong@" not in str(caught.value)


def test_the_environment_gives_the_password_that_an_address_leaves_out(
    start_redis, tmp_path, monkeypatch
):
    path, port = tmp_path / "redis.sock", free_port()
    place = ("--port", str(port), "--unixsocket", str(path))
    start_redis(path.exists, *place, "--requirepass", "s3cr/et 1")
    addresses = (
        f"redis://127.0.0.1:{port}/0",
        f"redis://default@127.0.0.1:{port}/0",
        f"unix://{path}",
    )
    monkeypatch.setenv("REDIS_PASSWORD", "s3cr/et 1")
    for number, address in enumerate(addresses):
        assert use(open_store(f"{address}?prefix=p{number}")) == [[1.0, 1.0]]
    monkeypatch.setenv("REDIS_PASSWORD", "s3cr/et 2")
    assert use(open_store(f"redis://:s3cr%2Fet%201@127.0.0.1:{port}/0")) == [[1.0, 1.0]]
    for address in addresses:
        with pytest.raises(StoreError, match="variable REDIS_PASSWORD") as caught:
            open_store(address).current(1)
        assert "s3cr" not in str(caught.value)


@pytest.fixture
def certificates(tmp_path):
    """An authority and one certificate for 127.0.0.1 that serves both sides."""
    return make_certificates(tmp_path, "own", host="IP:127.0.0.1")


def test_tls_options_name_the_files(start_redis, certificates):
    port = free_port()
    files = certificates
    start_redis(
        lambda: listens(port),
        *("--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(files / "ca.pem")),
        *("--tls-cert-file", str(files / "own.pem"), "--tls-key-file", str(files / "own.key")),
    )
    address = f"rediss://127.0.0.1:{port}/0?timeout=5"
    trusted = f"{address}&tls_ca={files}/ca.pem"
    both = f"{trusted}&tls_certificate={files}/own.pem&tls_key={files}/own.key"
    assert use(open_store(both)) == [[1.0, 1.0]]
    for missing in (address, trusted):
        with pytest.raises(StoreError, match="refused or did not answer"):
            open_store(missing).current(1)


def test_sentinels_lead_to_the_master(start_redis, redis_server, tmp_path):
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor embeddings 127.0.0.1 {redis_server.port} 1\n")
    start_redis(lambda: listens(port), str(config), "--sentinel")
    address = f"redis-sentinel://127.0.0.1:1,127.0.0.1:{port}/embeddings/0"
    assert use(open_store(f"{address}?prefix={tmp_path.name}")) == [[1.0, 1.0]]


def test_sentinels_and_master_have_passwords_of_their_own(start_redis, tmp_path):
    master, sentinel = free_ports(2)
    start_redis(
        lambda: listens(master), "--port", str(master), "--requirepass", "s3cr/et of the data"
    )
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nrequirepass s3cr@et-of-the-sentinels\n"
        f"sentinel monitor embeddings 127.0.0.1 {master} 1\n"
        'sentinel auth-pass embeddings "s3cr/et of the data"\n'
    )
    start_redis(lambda: listens(sentinel), str(config), "--sentinel")
    data, watchers = "s3cr%2Fet%20of%20the%20data", "s3cr%40et-of-the-sentinels"
    place = f"127.0.0.1:{sentinel}/embeddings/0?timeout=5"

    def address(account, password):
        return f"redis-sentinel://{account}{place}{password}"

    right = address(f":{data}@", f"&sentinel_user=default&sentinel_password={watchers}")
    assert use(open_store(right)) == [[1.0, 1.0]]
    assert use(open_store(right.replace("&sentinel_user=default", ""))) == [[1.0, 1.0]]
    for wrong in (
        address(f":{data}@", ""),
        address(f":{data}@", "&sentinel_password=s3cr-guess"),
        address("", f"&sentinel_password={watchers}"),
        address(":s3cr-guess@", f"&sentinel_password={watchers}"),
    ):
        with pytest.raises(StoreError, match="refused or did not answer") as caught:
            open_store(wrong).current(1)
        assert "s3cr" not in str(caught.value)


def test_sentinels_and_master_may_speak_tls(start_redis, certificates, tmp_path):
    files = certificates
    master, sentinel = free_ports(2)
    tls = (
        *("--tls-ca-cert-file", str(files / "ca.pem"), "--tls-cert-file", str(files / "own.pem")),
        *("--tls-key-file", str(files / "own.key"), "--tls-replication", "yes", "--port", "0"),
    )
    start_redis(lambda: listens(master), "--tls-port", str(master), *tls)
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor embeddings 127.0.0.1 {master} 1\n")
    start_redis(
        lambda: listens(sentinel), str(config), "--sentinel", "--tls-port", str(sentinel), *tls
    )
    options = f"tls_ca={files}/ca.pem&tls_certificate={files}/own.pem&tls_key={files}/own.key"
    address = f"rediss-sentinel://127.0.0.1:{sentinel}/embeddings/0?{options}"
    assert use(open_store(address)) == [[1.0, 1.0]]
    with pytest.raises(StoreError, match="refused or did not answer"):
        open_store(f"redis-sentinel://127.0.0.1:{sentinel}/embeddings/0").current(1)


def test_keys_of_one_store_lie_in_one_slot_of_a_cluster(redis_cluster, tmp_path):
    """And another node than theirs may be the one that is asked first."""
    for n, node in enumerate(redis_cluster.split(",")):
        store = open_store(f"redis+cluster://{node}?prefix={tmp_path.name}-{n}")
        assert use(store) == [[1.0, 1.0]]
        tag = f"{{{tmp_path.name}-{n}}}"
        assert store.prefix == tag
        slot = redis.crc.key_slot(tag.encode())
        keys = list(store.client.scan_iter(match=f"*{tmp_path.name}-{n}*"))
        assert len(keys) == 4
        assert {redis.crc.key_slot(key) for key in keys} == {slot}
        store.close()
