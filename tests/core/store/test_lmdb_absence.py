"""A store folder that is absent, or that another one has replaced, while processes use it."""

import contextlib
import shutil

import numpy as np
import pytest

from tfrec_limaml.errors import NotCurrentError, StoreError
from tfrec_limaml.store import lmdb_environment, open_store


def write(store, value, identifier, rows=100):
    with store.new_generation(1, 8, identifier) as writer:
        writer.put([str(n) for n in range(rows)], np.full((rows, 8), value, np.float32))
        return writer.publish(rows)


def test_a_removed_store_is_an_error_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_environment, "_CHECK_SECONDS", 0.0)
    store = open_store(f"lmdb:{tmp_path / 'store'}")
    write(store, 1, "g1")
    assert store.get_many(["0"], 1)[1].all()
    (tmp_path / "store").rename(tmp_path / "moved")
    assert store.get_many(["0"], 1)[1].all()  # another folder may be about to replace it
    monkeypatch.setattr(lmdb_environment, "_ABSENT_SECONDS", -1.0)
    with pytest.raises(StoreError, match="was removed: restore it, or publish again"):
        store.get_many(["0"], 1)


def test_a_store_that_was_absent_for_a_moment_may_be_absent_again_later(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(lmdb_environment.time, "monotonic", lambda: clock[0])
    store = open_store(f"lmdb:{tmp_path / 'store'}")
    write(store, 1, "g1")
    assert store.get_many(["0"], 1)[1].all()
    for _ in range(2):
        (tmp_path / "store").rename(tmp_path / "moved")
        clock[0] += 2.0
        assert store.get_many(["0"], 1)[1].all()
        (tmp_path / "moved").rename(tmp_path / "store")
        clock[0] += 60.0
        assert store.get_many(["0"], 1)[1].all()


def test_a_removed_store_is_not_an_empty_one_to_a_reader_that_opens_a_generation(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lmdb_environment, "_CHECK_SECONDS", 0.0)
    store, reader = open_store(f"lmdb:{tmp_path / 'store'}"), open_store(f"lmdb:{tmp_path}/store")
    write(store, 1, "g1")
    assert reader.get_many(["0"], 1)[1].all()
    write(store, 2, "g2")
    (tmp_path / "store").rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"store/1/g2"):
            reader.get_many(["0"], 1)
    monkeypatch.setattr(lmdb_environment, "_ABSENT_SECONDS", -1.0)
    with pytest.raises(StoreError, match="was removed: restore it, or publish again"):
        reader.get_many(["0"], 1)
    (tmp_path / "moved").rename(tmp_path / "store")
    assert reader.get_many(["0"], 1)[0][0, 0] == 2


def test_a_write_goes_to_a_folder_that_has_just_taken_the_place_of_the_store(tmp_path):
    address = f"lmdb:{tmp_path}/store"
    with contextlib.closing(open_store(address)) as store:
        write(store, 1, "g1")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store = open_store(address)
    write(store, 2, "g2")
    (tmp_path / "store").rename(tmp_path / "old")
    (tmp_path / "copy").rename(tmp_path / "store")
    with pytest.raises(NotCurrentError, match="'g1' is"):  # within the second between two checks
        store.upsert(1, "g2", ["0"], np.ones((1, 8), np.float32), [1])
    store.upsert(1, "g1", ["0"], np.full((1, 8), 5, np.float32), [1])
    store.close()
    with contextlib.closing(open_store(address)) as other:
        assert other.get_many(["0", "1"], 1)[0][:, 0].tolist() == [5, 1]
