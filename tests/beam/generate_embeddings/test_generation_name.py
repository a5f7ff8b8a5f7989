"""The name of a generation is given before the work, by a store that takes the generation."""

import pytest
import redis

from limaml_beam.generate_embeddings.job import new_generation_name
from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store


@pytest.fixture
def account(redis_server):
    """Address of an account that may read and write, but not publish."""
    server = redis.Redis(port=redis_server.port)
    rights = ("~unpublished:*", "+@read", "+@write", "+@connection")
    server.execute_command("ACL", "SETUSER", "unpublished", "on", ">s3cret", *rights)
    yield f"redis://unpublished:s3cret@127.0.0.1:{redis_server.port}/0?prefix=unpublished"
    server.execute_command("ACL", "DELUSER", "unpublished")
    server.close()


def test_a_store_that_could_not_publish_gives_no_name(account):
    store = open_store(account)
    with pytest.raises(StoreError, match=r"ACL SETUSER NAME \+@transaction"):
        new_generation_name(store, 1)
    store.close()


def test_a_generation_of_a_given_name_can_be_written_and_leaves_nothing_before(tmp_path):
    store = open_store(f"lmdb:{tmp_path}/store")
    name = new_generation_name(store, 1)
    assert not list(tmp_path.glob(f"store/1/{name}*"))
    with store.new_generation(1, 2, name) as writer:
        writer.put(["17"], [[1.0, 2.0]])
        writer.publish(1)
    assert new_generation_name(store, 1) > name
    store.close()
