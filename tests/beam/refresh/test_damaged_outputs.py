"""Refreshes whose earlier outputs are damaged, of another model, or in use."""

import dataclasses
import fcntl
import shutil

import numpy as np
import pytest
from daily_rows import expected, sums

from limaml_beam.io import folder_lock
from limaml_beam.refresh import outputs
from tfrec_limaml.cli import main
from tfrec_limaml.errors import StoreError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(f"lmdb:{tmp_path}/store")


@pytest.fixture
def leave_pending(raw, arguments, result, monkeypatch):
    """``leave_pending()``: an output of the first day that passed its checks only; its name."""

    def run():
        def unreachable(*_, **__):
            raise StoreError("the store did not answer")

        with monkeypatch.context() as patch:
            patch.setattr(outputs, "publish", unreachable)
            assert main(["refresh", raw(1), *arguments]) == 2
        return result()["generation"]

    return run


def empty_a_file(tmp_path, generation):
    file = next((tmp_path / "work" / "embeddings" / generation).glob("embeddings-*.parquet"))
    file.write_bytes(b"")
    return file


@pytest.mark.parametrize("damage", ["embeddings", "report"])
def test_a_damaged_output_that_was_not_published_is_removed_with_a_warning(
    raw, arguments, result, tmp_path, store, leave_pending, damage
):
    name = leave_pending()
    if damage == "embeddings":
        file = empty_a_file(tmp_path, name)
    else:
        file = tmp_path / "work" / "embeddings" / name / "report.json"
        file.unlink()
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert "an output that was not published yet is damaged and was removed" in warning
    assert file.name in warning
    assert "published_pending" not in result()
    assert [g.identifier for g in store.generations(7)] == [result()["generation"]]
    np.testing.assert_array_equal(sums(store), expected(1))


def test_a_damaged_published_output_is_named_with_a_remedy_that_helps(
    raw, arguments, result, tmp_path, store, capsys
):
    assert main(["refresh", raw(1), *arguments]) == 0
    name = result()["published"]
    empty_a_file(tmp_path, name)
    for more in ([], ["--full"]):
        assert main(["refresh", raw(1), *arguments, *more]) == 2
        folder = tmp_path / "work" / "embeddings" / name
        assert f"remove {folder} and repeat the command" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert main(["refresh", raw(1), *arguments]) == 0
    assert f"current generation {name}, and all tasks were adapted" in result()["warnings"][0]
    assert "check: nothing was compared" in capsys.readouterr().out
    assert (result()["embedded"], result()["carried"]) == (30, 0)
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []


def test_a_published_output_without_its_report_is_warned_about(raw, arguments, result, tmp_path):
    assert main(["refresh", raw(1), *arguments]) == 0
    (tmp_path / "work" / "embeddings" / result()["published"] / "report.json").unlink()
    assert main(["refresh", raw(1, members=20), *arguments]) == 0
    assert "nothing was compared with the current generation" in result()["warnings"][0]


def test_a_newer_generation_of_another_version_does_not_stop_an_output_that_is_pending(
    raw, arguments, result, store, leave_pending
):
    name = leave_pending()
    for identifier in ("99991231T000000Z", "99991231T000001Z"):
        with store.new_generation(8, 3, identifier) as writer:
            writer.put(["u1"], np.zeros((1, 3), np.float32))
            writer.publish(1)
    store.rollback(8)  # condemns one of them
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["published_pending"] == name
    assert (result()["embedded"], result()["carried"]) == (0, 30)


def test_a_refresh_says_what_it_waits_for_and_gives_up(
    raw, arguments, result, tmp_path, store, monkeypatch, capsys
):
    monkeypatch.setattr(folder_lock, "_LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "_POLL_SECONDS", 0.01)
    command = ["refresh", raw(1), *arguments, "--keep-rows"]
    (tmp_path / "work").mkdir()
    with open(tmp_path / "work" / "update.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711\n")
        file.flush()
        assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("waiting for process 4711, which holds ") == 1
    assert "another update (process 4711) is using" in error
    assert main(command) == 0
    assert len(store.generations(7)) == 2
    assert "waiting" not in capsys.readouterr().err


def test_a_store_that_lost_what_was_published_to_it_is_a_warning_about_its_tombstones(
    raw, arguments, result, tmp_path, capsys
):
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []
    lost = result()["published"]
    shutil.rmtree(tmp_path / "store")
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    published = f"this work folder has published {lost}, and the store holds no generation of model"
    assert f"{published} version 7: if it is not a new store, it lost its data" in warning
    assert "the tombstones of erasures with them: repeat the erasures (`limaml erase`)" in warning
    assert f"check: {warning}" in capsys.readouterr().out
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []


@pytest.fixture
def published_twice(raw, arguments, result, tmp_path):
    """The two generations of a store, of which ``older`` is a copy without the second."""
    assert main(["refresh", raw(1), *arguments]) == 0
    first = result()["published"]
    shutil.copytree(tmp_path / "store", tmp_path / "older")
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []
    return first, result()["published"]


def go_back(tmp_path):
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "older").rename(tmp_path / "store")


def test_a_store_that_has_gone_back_is_a_warning_about_the_erasures_made_since(
    raw, arguments, result, tmp_path, capsys, published_twice
):
    first, second = published_twice
    assert main(["erase", "u3", "--store", f"lmdb:{tmp_path}/store"]) == 0
    go_back(tmp_path)
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert f"has published {second}, which the store does not list; it lists older" in warning
    assert f"ones, and {first} is current. If {second} was not removed on purpose" in warning
    assert "gone back to an earlier state (a restored copy, a failover), without the" in warning
    assert "erasures made since: repeat these (`limaml erase`, see docs/erasure.md)" in warning
    assert f"check: {warning}" in capsys.readouterr().out
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []


def test_a_refused_refresh_does_not_use_up_the_warning_that_the_store_has_gone_back(
    raw, arguments, result, tmp_path, published_twice
):
    go_back(tmp_path)
    assert main(["refresh", raw(1, members=20), *arguments]) == 2
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert f"has published {published_twice[1]}, which the store does not list" in warning


def test_a_rollback_is_no_sign_of_a_store_that_has_gone_back(
    raw, arguments, result, store, published_twice
):
    store.rollback(7)
    assert main(["refresh", raw(1), *arguments]) == 0
    assert result()["warnings"] == []


def test_a_generation_that_was_pruned_after_a_rollback_may_be_the_reason_of_the_warning(
    raw, arguments, result, store, published_twice
):
    store.rollback(7)
    assert store.prune(7, grace_seconds=0.0) == [published_twice[1]]
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert "on purpose (`limaml store prune` after a rollback), the store has gone back" in warning


def test_generations_that_another_command_published_do_not_look_like_an_older_store(
    raw, arguments, result, store, published_twice
):
    for identifier in ("99991231T000000Z", "99991231T000001Z"):
        with store.new_generation(7, 3, identifier) as writer:
            writer.put(["u1"], np.zeros((1, 3), np.float32))
            writer.publish(1)
    assert set(store.prune(7, grace_seconds=0.0)) == set(published_twice)
    assert main(["refresh", raw(1), *arguments]) == 0
    (warning,) = result()["warnings"]
    assert "nothing was compared with the current generation 99991231T000001Z" in warning


def test_another_model_version_in_the_same_work_folder_is_a_warning(
    raw, arguments, result, tmp_path, export
):
    assert main(["refresh", raw(1), *arguments]) == 0
    adapter = tmp_path / "next" / "adapter" / "8"
    shutil.copytree(export / "adapter" / "7", adapter)
    dataclasses.replace(Manifest.read(adapter), model_version=8).write(adapter)
    following = ["refresh", raw(1), *arguments, "--export", f"{tmp_path}/next"]
    assert main(following) == 0
    (warning,) = result()["warnings"]
    assert "this work folder held model version 7 until now" in warning
    assert "its own --work" in warning
    assert main(following) == 0
    assert result()["warnings"] == []
