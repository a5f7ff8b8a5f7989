"""Every backend: what is put and published is read back, and what may not be stored is refused."""

import re

import numpy as np
import pytest
from few_keys import KEYS, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import EmbeddingStore


def test_the_backends_follow_the_protocol(store):
    assert isinstance(store, EmbeddingStore)


def test_what_was_put_is_read_back_and_missing_keys_are_zero(store):
    write(store, [1, 2, 3, 4])
    matrix, found = store.get_many(["d", "nobody", "a", "d", "ü|7"], 1)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix[:, 0], [4, 0, 1, 4, 3])
    np.testing.assert_array_equal(found, [True, False, True, True, True])


def test_no_keys_give_no_rows(store):
    write(store, [1, 2, 3, 4])
    matrix, found = store.get_many([], 1)
    assert matrix.shape == (0, 3)
    assert found.shape == (0,)


def test_a_version_without_a_generation_finds_nothing(store):
    write(store, [1, 2, 3, 4], version=1)
    matrix, found = store.get_many(["a", "b"], 2)
    assert matrix.shape == (2, 0)
    assert not found.any()
    assert store.current(2) is None


def test_a_closed_store_is_opened_again_by_the_next_call(store):
    write(store, [1, 2, 3, 4])
    for _ in range(2):
        store.close()
        assert store.get_many(["b"], 1)[0][0, 0] == 2
    store.close()
    write(store, [5, 6, 7, 8])
    assert store.get_many(["b"], 1)[0][0, 0] == 6


def test_the_end_of_a_with_block_closes_the_store_also_after_an_error(store, monkeypatch):
    closed = []
    close = type(store).close
    monkeypatch.setattr(type(store), "close", lambda self: closed.append(self) or close(self))
    with store as entered:
        write(entered, [1, 2, 3, 4])
        assert closed == []
    assert closed == [store]
    with pytest.raises(KeyError, match="of the block"), store:
        raise KeyError("of the block")
    assert closed == [store, store]
    assert store.get_many(["b"], 1)[0][0, 0] == 2


def test_unpublished_rows_are_invisible_until_the_pointer_moves(store, open_another):
    write(store, [1, 1, 1, 1])
    reader = open_another()
    with store.new_generation(1, 3) as writer:
        writer.put(KEYS, np.full((4, 3), 9, np.float32))
        assert reader.get_many(["a"], 1)[0][0, 0] == 1
        writer.publish(4)
    assert reader.get_many(["a"], 1)[0][0, 0] == 9


def test_leaving_the_context_unpublished_drops_the_generation(store):
    def fail():
        with store.new_generation(1, 3, "g1") as writer:
            writer.put(KEYS, np.ones((4, 3), np.float32))
            raise RuntimeError("job failed")

    with pytest.raises(RuntimeError):
        fail()
    assert store.generations() == []
    assert store.get_many(["a"], 1)[1].tolist() == [False]
    write(store, [5, 5, 5, 5], keys=["x", "a", "b", "c"], identifier="g1")
    assert store.get_many(["ü|7"], 1)[1].tolist() == [False]


def test_a_key_put_twice_keeps_the_last_value_and_counts_once(store):
    with store.new_generation(1, 1) as writer:
        writer.put(["a", "b", "a"], np.array([[1], [2], [3]], np.float32))
        writer.put(["b"], np.array([[4]], np.float32))
        assert writer.publish(2).count == 2
    np.testing.assert_array_equal(store.get_many(["a", "b"], 1)[0], [[3], [4]])


def test_a_wrong_count_is_not_published(store):
    write(store, [1, 1, 1, 1])
    with store.new_generation(1, 3) as writer:
        writer.put(["a"], np.full((1, 3), 2, np.float32))
        with pytest.raises(StoreError, match="holds 1 distinct task keys, expected 2"):
            writer.publish(2)
    assert store.get_many(["a"], 1)[0][0, 0] == 1


def test_an_empty_generation_is_not_published(store):
    with store.new_generation(1, 3) as writer, pytest.raises(StoreError, match="empty"):
        writer.publish()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(store, bad):
    with (
        store.new_generation(1, 2) as writer,
        pytest.raises(StoreError, match=r"1 of 2 embeddings are not finite.*'b'"),
    ):
        writer.put(["a", "b"], np.array([[1, 2], [3, bad]], np.float32))


def test_a_wrong_width_is_refused(store):
    with (
        store.new_generation(1, 2) as writer,
        pytest.raises(StoreError, match=re.escape("shape [1, 2]")),
    ):
        writer.put(["a"], np.ones((1, 3), np.float32))


@pytest.mark.parametrize("key", ["", "k" * 512])
def test_keys_that_a_backend_cannot_hold_are_refused(store, key):
    with store.new_generation(1, 1) as writer, pytest.raises(StoreError, match="1 to 511 bytes"):
        writer.put([key], np.ones((1, 1), np.float32))


def test_a_finished_writer_refuses_further_work(store):
    with store.new_generation(1, 1) as writer:
        writer.put(["a"], np.ones((1, 1), np.float32))
        writer.publish()
        with pytest.raises(StoreError, match="already published"):
            writer.put(["b"], np.ones((1, 1), np.float32))


def test_float16_halves_the_precision_and_readers_follow_each_generation(store, open_another):
    half = open_another(dtype="float16")
    values = np.array([[0.1, -3.14159, 1e-3]], np.float32)
    with half.new_generation(1, 3) as writer:
        writer.put(["a"], values)
        writer.publish(1)
    np.testing.assert_array_equal(
        store.get_many(["a"], 1)[0], values.astype(np.float16).astype(np.float32)
    )
    with (
        half.new_generation(1, 3) as writer,
        pytest.raises(StoreError, match="not finite as float16"),
    ):
        writer.put(["a"], np.full((1, 3), 1e6, np.float32))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_finite_vectors_survive_the_round_trip_bit_by_bit(store, data):
    characters = st.characters(codec="utf-8")
    keys = data.draw(
        st.lists(st.text(characters, min_size=1, max_size=20), min_size=1, max_size=20, unique=True)
    )
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    width = data.draw(st.integers(1, 5))
    matrix = data.draw(hnp.arrays(np.float32, (len(keys), width), elements=finite))
    with store.new_generation(1, width) as writer:
        writer.put(keys, matrix)
        writer.publish(len(keys))
    asked = data.draw(st.permutations([*keys, "not in the store at all"]))
    answer, found = store.get_many(asked, 1)
    expected = dict(zip(keys, matrix, strict=True))
    assert found.tolist() == [key in expected for key in asked]
    for key, row in zip(asked, answer, strict=True):
        assert row.tobytes() == expected.get(key, np.zeros(width, np.float32)).tobytes()
