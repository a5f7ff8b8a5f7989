"""Vectors of a generation that an LMDB reader keeps in memory."""

import numpy as np
import pytest

from tfrec_limaml.store import kept_vectors, open_store
from tfrec_limaml.store.base import LookUpResult
from tfrec_limaml.store.kept_vectors import KeptGenerations, KeptVectors

KEYS = [f"k{n}" for n in range(2 * kept_vectors.FROM_KEYS)]


class Reads:
    """Answers with vectors of one number, and remembers what was asked."""

    def __init__(self, number, unknown=()):
        self.number, self.unknown, self.asked = number, set(unknown), []

    def __call__(self, keys):
        self.asked.append(list(keys))
        found = np.array([key not in self.unknown for key in keys])
        return LookUpResult(
            np.where(found[:, None], np.float32(self.number), 0).repeat(3, 1), found
        )


def write(store, value, identifier, keys=KEYS):
    with store.new_generation(1, 3, identifier) as writer:
        writer.put(keys, np.full((len(keys), 3), value, np.float32))
        writer.publish(len(keys))


@pytest.fixture
def store(tmp_path):
    with_data = open_store(f"lmdb:{tmp_path}")
    write(with_data, 1, "g1")
    yield with_data
    with_data.close()


def test_only_keys_that_are_not_kept_are_read():
    kept, reads = KeptVectors(3, capacity=100), Reads(7)
    kept.get_many(["a", "b"], (), reads)
    matrix, found = kept.get_many(["c", "a", "b"], (), reads)
    assert reads.asked == [["a", "b"], ["c"]]
    assert matrix.tolist() == [[7.0] * 3] * 3
    assert found.all()
    matrix, _ = kept.get_many(["b", "c", "a"], (), reads)
    assert len(reads.asked) == 2
    matrix[:] = 0  # the caller's own
    assert (kept.get_many(["b", "c", "a"], (), reads)[0] == 7).all()


def test_an_unknown_key_is_read_each_time():
    kept, reads = KeptVectors(3, capacity=100), Reads(7, unknown="x")
    for _ in range(2):
        matrix, found = kept.get_many(["a", "x"], (), reads)
        assert matrix.tolist() == [[7.0] * 3, [0.0] * 3]
        assert found.tolist() == [True, False]
    assert reads.asked == [["a", "x"], ["x"]]


def test_a_newer_vector_is_read_and_the_generations_own_one_stays():
    kept = KeptVectors(3, capacity=100)
    kept.get_many(["a", "b"], (), Reads(7))
    assert kept.get_many(["a", "b"], {"b"}, Reads(8))[0][:, 0].tolist() == [7.0, 8.0]
    kept.get_many(["c", "d"], {"d"}, Reads(8))
    reads = Reads(9)
    assert kept.get_many(["b", "c", "d"], (), reads)[0][:, 0].tolist() == [7.0, 8.0, 9.0]
    assert reads.asked == [["d"]]


def test_no_more_vectors_are_kept_than_there_is_room_for():
    kept, reads = KeptVectors(3, capacity=2), Reads(7)
    kept.get_many(["a", "b", "c"], (), reads)
    kept.get_many(["a", "b", "c"], (), reads)
    assert reads.asked == [["a", "b", "c"], ["c"]]


def test_a_new_generation_drops_what_was_kept_and_two_model_versions_are_kept_at_most(tmp_path):
    generations = KeptGenerations()
    first = generations.vectors_of(1, (tmp_path / "g1", 0), 3)
    assert generations.vectors_of(1, (tmp_path / "g1", 0), 3) is first
    assert generations.vectors_of(1, (tmp_path / "g2", 0), 3) is not first
    last = generations.vectors_of(1, (tmp_path / "g2", 1), 3)  # another folder
    assert last is not first
    second = generations.vectors_of(2, (tmp_path / "g1", 0), 3)
    third = generations.vectors_of(3, (tmp_path / "g1", 0), 3)
    assert generations.vectors_of(2, (tmp_path / "g1", 0), 3) is second
    assert generations.vectors_of(3, (tmp_path / "g1", 0), 3) is third
    assert generations.vectors_of(1, (tmp_path / "g2", 1), 3) is not last


def test_readers_follow_publications_upserts_rollbacks_and_erasures(store):
    assert (store.get_many(KEYS, 1)[0] == 1).all()
    store.upsert(1, "g1", KEYS[:2], np.full((2, 3), 5, np.float32), [2**45] * 2)
    expected = [5.0, 5.0] + [1.0] * (len(KEYS) - 2)
    assert store.get_many(KEYS, 1)[0][:, 0].tolist() == expected
    write(store, 2, "g2", KEYS[1:])
    matrix, found = store.get_many(KEYS, 1)
    assert found[1:].all()
    assert (matrix[2:] == 2).all()
    store.rollback(1)
    assert (store.get_many(KEYS, 1)[0] == 1).all()  # without the overlay, which it drops
    store.erase([KEYS[3]])
    matrix, found = store.get_many(KEYS, 1)
    assert found.tolist() == [key != KEYS[3] for key in KEYS]
    assert not matrix[3].any()


def test_look_ups_name_the_model_that_made_the_vectors(tmp_path):
    store = open_store(f"lmdb:{tmp_path}")
    with store.new_generation(1, 3, "g1", "digest") as writer:
        writer.put(KEYS, np.ones((len(KEYS), 3), np.float32))
        writer.publish(len(KEYS))
    assert store.current(1).model == "digest"
    for _ in range(2):  # read, then kept
        assert store.get_many(KEYS, 1).model == store.get_many(["k0", "none"], 1).model == "digest"
    store.close()


def test_readers_follow_a_folder_that_replaces_the_stores(tmp_path, monkeypatch):
    monkeypatch.setattr("tfrec_limaml.store.lmdb_environment._CHECK_SECONDS", 0.0)
    stores = []
    for name, value in (("store", 1), ("copy", 2)):
        with_data = open_store(f"lmdb:{tmp_path / name}")
        write(with_data, value, "g1")
        stores.append(with_data)
    assert (stores[0].get_many(KEYS, 1)[0] == 1).all()
    stores[1].close()
    (tmp_path / "store").rename(tmp_path / "old")
    (tmp_path / "copy").rename(tmp_path / "store")
    assert (stores[0].get_many(KEYS, 1)[0] == 2).all()
    stores[0].close()


def test_a_key_is_hidden_while_it_is_erased_though_its_vector_is_kept(store, monkeypatch):
    assert store.get_many(KEYS, 1)[1].all()

    def stop(*arguments):
        raise RuntimeError("killed before the generation is rewritten")

    monkeypatch.setattr("tfrec_limaml.store.lmdb_erasure.copy_without", stop)
    with pytest.raises(RuntimeError, match="killed"):
        store.erase([KEYS[3]])
    matrix, found = store.get_many(KEYS, 1)
    assert found.tolist() == [key != KEYS[3] for key in KEYS]
    assert not matrix[3].any()


def test_look_ups_of_many_keys_read_a_generation_once(store, monkeypatch):
    before = store.get_many(KEYS, 1)
    monkeypatch.setattr("tfrec_limaml.store.values.decode_values", None)
    after = store.get_many(KEYS[::-1], 1)
    assert np.array_equal(after[0], before[0][::-1])
    assert after[1].all()
    with pytest.raises(TypeError):
        store.get_many(KEYS[: kept_vectors.FROM_KEYS - 1], 1)
