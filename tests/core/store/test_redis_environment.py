"""What a Redis store takes from its environment: passwords and the client's package."""

import sys
from types import SimpleNamespace

import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store, redis_connection


def test_the_environment_gives_the_passwords_of_sentinels_and_of_a_cluster(monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "of the data")
    monkeypatch.setenv("REDIS_SENTINEL_PASSWORD", "of the sentinels")
    monkeypatch.setattr(redis_connection, "RedisCluster", lambda **o: SimpleNamespace(made_of=o))
    options = open_store("redis+cluster://user@127.0.0.1:1").client.made_of
    assert (options["username"], options["password"]) == ("user", "of the data")
    master = open_store("redis-sentinel://127.0.0.1:1/embeddings").client.connection_pool
    assert master.connection_kwargs["password"] == "of the data"
    (sentinel,) = master.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs["password"] == "of the sentinels"


def test_a_store_of_a_package_that_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "tfrec_limaml.store.redis_store")
    monkeypatch.delitem(sys.modules, "tfrec_limaml.store.redis_catalog")
    with pytest.raises(StoreError, match=r"package redis: pip install 'tfrec-limaml\[redis\]'"):
        open_store("redis://127.0.0.1:1/0")
