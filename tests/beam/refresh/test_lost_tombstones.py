"""A store that has lost tombstones, and a work folder that has seen them."""

import shutil

import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store


@pytest.fixture
def store(tmp_path):
    return f"lmdb:{tmp_path}/store"


@pytest.fixture
def lost(raw, arguments, result, tmp_path, store):
    """The store is a copy of before an erasure that a refresh has seen."""
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []
    shutil.copytree(tmp_path / "store", tmp_path / "older")
    assert main(["erase", "u3", "--store", store]) == 0
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "older").rename(tmp_path / "store")


def is_stored(store, key):
    with open_store(store) as opened:
        _, known = opened.get_many([key], 7)
        return bool(known[0])


def test_members_whose_erasure_a_refresh_has_seen_are_not_published_again(
    lost, raw, arguments, result, tmp_path, store
):
    assert is_stored(store, "u3")
    assert main(["refresh", raw(1), *arguments]) == 0
    older, lacking = result()["warnings"]
    assert "the store has gone back to an earlier state" in older
    assert "the store lacks 1 tombstone of erased keys that an earlier run of this work" in lacking
    assert "repeat the erasures (`limaml erase`" in lacking
    assert not is_stored(store, "u3")
    assert is_stored(store, "u4")
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == [lacking]
    (tmp_path / "outputs.yaml").write_text("- work\n")
    outputs = ["--manifest-of-outputs", f"{tmp_path}/outputs.yaml"]
    assert main(["erase", "u3", "--store", store, *outputs]) == 0  # from the older generation
    assert main(["erase", "u3", "--store", store, *outputs, "--verify"]) == 0
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []


def test_an_erasure_is_recorded_in_the_work_folders_that_it_searches(
    raw, arguments, result, tmp_path, store
):
    assert main(["refresh", raw(1), *arguments]) == 0
    shutil.copytree(tmp_path / "store", tmp_path / "older")
    (tmp_path / "outputs.yaml").write_text("- work\n")
    outputs = ["--manifest-of-outputs", f"{tmp_path}/outputs.yaml"]
    assert main(["erase", "u3", "--store", store, *outputs]) == 0
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "older").rename(tmp_path / "store")
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert "the store lacks 1 tombstone" in warning
    assert not is_stored(store, "u3")


def test_a_damaged_copy_of_the_tombstones_is_named_with_what_to_do(
    lost, raw, arguments, tmp_path, capsys
):
    (tmp_path / "work" / "tombstones").write_bytes(b"15 bytes, torn.")
    assert main(["refresh", raw(1), *arguments]) == 2
    assert "tombstones is damaged: 15 bytes are not a multiple of 16" in capsys.readouterr().err
