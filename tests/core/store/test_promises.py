"""What a store gives back is what was put there for this version, this generation and this member;
anything else is a counted miss or a `StoreError`.
"""

import dataclasses
import json
import shutil
import zlib

import lmdb
import numpy as np
import pytest

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.values import HEADER

KEYS = ["a", "b", "c"]


def write(store, version=1, identifier="g1", width=4, first=0.0):
    vectors = first + np.arange(len(KEYS) * width, dtype=np.float32).reshape(len(KEYS), width)
    with store.new_generation(version, width, identifier) as writer:
        writer.put(KEYS, vectors)
        writer.publish(len(KEYS))
    return vectors


@pytest.fixture
def change(store, store_address, tmp_path):
    """``change("a", function)``: replaces the stored bytes of a key by what the function makes of
    them, behind the store's back.
    """

    def in_lmdb(key, function, version, identifier):
        store.close()  # LMDB opens a folder once in a process
        folder = tmp_path / "store" / str(version) / identifier
        environment = lmdb.open(str(folder), map_size=1 << 30, lock=False)
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), function(transaction.get(key.encode())))
        environment.close()

    def in_redis(key, function, version, identifier):
        name = store.catalog.data_key(version, identifier)
        store.client.hset(name, key, function(store.client.hget(name, key)))

    return lambda key, function, version=1, identifier="g1": (
        in_redis if store_address.startswith("redis") else in_lmdb
    )(key, function, version, identifier)


NAN = np.float32(np.nan).tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: bytes([value[0] ^ 1]) + value[1:],
        lambda value: value[:-1] + bytes([value[-1] ^ 128]),
        lambda value: NAN + value[4:],
        lambda value: NAN * 4,
        lambda value: value[:-4],
        lambda value: value + value,
        lambda value: b"",
        lambda value: bytes(len(value)),
    ],
    ids=["bit", "checksum", "one NaN", "raw NaN", "short", "long", "empty", "zeros"],
)
def test_a_damaged_value_is_a_counted_miss_and_the_others_are_found(store, change, damage):
    vectors = write(store)
    change("b", damage)
    answer = store.get_many(KEYS, 1)
    embeddings, found = answer
    assert found.tolist() == [True, False, True]
    assert answer.damaged == 1
    np.testing.assert_array_equal(embeddings, vectors * [[1], [0], [1]])
    assert store.get_many(["b"], 1)[1].tolist() == [False]
    assert store.get_many(["a", "nobody"], 1).damaged == 0


def test_widths_that_make_up_for_each_other_do_not_shift_values(store, change):
    vectors = write(store)
    change("a", lambda value: value[:-4])
    change("b", lambda value: value + b"1234")
    answer = store.get_many(KEYS, 1)
    assert answer[1].tolist() == [False, False, True]
    assert answer.damaged == 2
    np.testing.assert_array_equal(answer[0][2], vectors[2])


def test_a_value_of_another_member_version_or_generation_is_damaged(store, change):
    write(store)
    write(store, version=2, first=100.0)
    write(store, identifier="g2", first=200.0)
    stolen = {}
    for version, identifier, key in ((1, "g2", "b"), (2, "g1", "a"), (1, "g1", "a")):
        change(
            key,
            lambda value, k=(version, identifier): stolen.setdefault(k, value),
            version,
            identifier,
        )
    assert len(set(stolen.values())) == 3
    for value in stolen.values():
        change("a", lambda old, value=value: value, 1, "g2")
        answer = store.get_many(["a", "c"], 1)
        assert (answer[1].tolist(), answer.damaged) == ([False, True], 1)


@pytest.mark.parametrize("key", ["", "x" * 600, "\ud800"])
def test_a_key_that_cannot_be_stored_is_not_found_and_the_others_are(store, key):
    vectors = write(store)
    embeddings, found = store.get_many(["a", key, "b"], 1)
    assert found.tolist() == [True, False, True]
    np.testing.assert_array_equal(embeddings[[0, 2]], vectors[:2])


def test_the_checksum_is_the_crc_of_generation_key_and_vector(store, change):
    vectors = write(store)
    held = []
    change("a", lambda value: held.append(value) or value)
    vector = vectors[0].astype("<f4").tobytes()
    header = json.dumps([1, "g1", 4, "float32"]).encode()
    assert held == [vector + zlib.crc32(header + b"a" + vector).to_bytes(4, "little")]


def test_a_store_of_release_0_1_0_is_still_read_and_its_damage_found(store, change, store_address):
    """Values without checksums, records without a format."""
    vectors = write(store)
    for key, vector in zip(KEYS, vectors, strict=True):
        change(key, lambda value, vector=vector: vector.astype("<f4").tobytes())
    _make_old(store, store_address)
    old = open_store(store_address)
    embeddings, found = old.get_many([*KEYS, "nobody"], 1)
    assert found.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(embeddings[:3], vectors)
    assert old.current(1).checked is False
    old.close()
    change("b", lambda value: NAN + value[4:])
    change("c", lambda value: value[:-1])
    old = open_store(store_address)
    answer = old.get_many(KEYS, 1)
    assert (answer[1].tolist(), answer.damaged) == ([True, False, False], 2)
    old.close()


def _make_old(store, address):
    """Rewrites the record of version 1, generation g1, as release 0.1.0 wrote it."""
    fields = ("model_version", "identifier", "count", "embedding_dim", "published")
    current = dataclasses.asdict(store.current(1))
    record = json.dumps({**{name: current[name] for name in fields}, "dtype": "float32"}).encode()
    if address.startswith("redis"):
        store.client.set(store.catalog.key(1, "current"), record)
        store.client.hset(store.catalog.key(1, "generations"), "g1", record)
        store.client.hdel(store.catalog.data_key(1, "g1"), HEADER)
    else:
        with store._catalog.writing() as transaction:
            transaction.put(b"record/1/g1", record)
        store.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"model_version": 1}',
        Record(
            model_version=1,
            identifier="g1",
            count=1,
            embedding_dim=2,
            dtype="float32",
            published=0.0,
            format=99,
        ).to_bytes(),
    ],
)
def test_a_record_that_cannot_be_used_is_a_store_error(content):
    with pytest.raises(StoreError, match="generation record that"):
        Record.from_bytes(content)


def test_a_redis_record_of_another_version_under_this_pointer_is_refused(redis_server, tmp_path):
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    write(store)
    write(store, version=2)
    store.client.set(
        store.catalog.key(1, "current"), store.client.get(store.catalog.key(2, "current"))
    )
    with pytest.raises(StoreError, match="is a record of version 2"):
        store.get_many(KEYS, 1)


@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_a_redis_hash_that_is_gone_is_told_from_one_without_these_members(
    redis_server, tmp_path, way
):
    store = open_store(f"{redis_server.address}?prefix={tmp_path.name}")
    write(store)
    write(store, version=2)
    assert not store.get_many(["nobody"], 1)[1].any()
    store.client.delete(store.catalog.data_key(1, "g1"))
    if way == "replaced":
        store.client.copy(store.catalog.data_key(2, "g1"), store.catalog.data_key(1, "g1"))
    else:
        assert store.current(1).state == "lost"
        assert [g.state for g in store.generations(1)] == ["lost"]
    with pytest.raises(StoreError, match="are gone from Redis"):
        store.get_many(KEYS, 1)


def test_the_folder_of_another_version_put_in_place_is_refused(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    write(store)
    write(store, version=2)
    store.close()
    shutil.rmtree(tmp_path / "1" / "g1")
    shutil.copytree(tmp_path / "2" / "g1", tmp_path / "1" / "g1")
    with pytest.raises(StoreError, match="holds the data of another generation"):
        open_store(f"lmdb:{tmp_path}").get_many(KEYS, 1)


@pytest.mark.parametrize("place", ["catalog", "1/g1"])
@pytest.mark.parametrize("damage", ["garbage", "half", "empty", "missing"])
def test_a_damaged_lmdb_file_is_a_store_error(tmp_path, place, damage):
    store = open_store(f"lmdb:{tmp_path}")
    with store.new_generation(1, 64, "g1") as writer:
        writer.put([str(n) for n in range(2000)], np.ones((2000, 64), np.float32))
        writer.publish()
    store.close()
    file = tmp_path / place / "data.mdb"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"garbage": b"x" * len(content), "half": content[: len(content) // 2], "empty": b""}[
                damage
            ]
        )
    fresh = open_store(f"lmdb:{tmp_path}")
    if place == "catalog" and damage == "missing":
        # As before the first publication: nothing can tell that something was there.
        assert fresh.get_many(["7"], 1)[0].shape == (1, 0)
    else:
        with pytest.raises(StoreError):
            fresh.get_many(["7"], 1)
    fresh.close()


def test_one_folder_by_two_names_is_one_store(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first, second = open_store(f"lmdb:{tmp_path}/real"), open_store(f"lmdb:{tmp_path}/link")
    vectors = write(first)
    np.testing.assert_array_equal(first.get_many(KEYS, 1)[0], vectors)
    np.testing.assert_array_equal(second.get_many(KEYS, 1)[0], vectors)
