"""Versions that are damaged or half copied: reported, while the last good one serves."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest

from limaml_serving.server import versions

AVAILABLE, END = 30, 50


@pytest.fixture
def base(tmp_path):
    return tmp_path / "model"


def damage_truncate_graph(directory):
    graph = directory / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])


def damage_no_graph(directory):
    (directory / "saved_model.pb").unlink()


def damage_garbage(directory):
    (directory / "saved_model.pb").write_bytes(os.urandom(4000))


def damage_empty_graph(directory):
    (directory / "saved_model.pb").write_bytes(b"")


def damage_truncate_variables(directory):
    (data,) = directory.glob("variables/*.data*")
    data.write_bytes(b"")


def damage_no_variables(directory):
    shutil.rmtree(directory / "variables")


def damage_pickle(directory):
    damage_no_graph(directory)
    (directory / "saved_model.pkl").write_bytes(pickle.dumps(["not", "a", "model"]))


def damage_everything(directory):
    shutil.rmtree(directory)
    directory.mkdir()


@pytest.mark.parametrize(
    "damage", [value for name, value in sorted(globals().items()) if name.startswith("damage_")]
)
def test_a_damaged_version_beside_a_good_one_is_reported_and_the_good_one_serves(
    serve_base, add_version, refusal, damage
):
    add_version(1)
    server, client = serve_base()
    damage(add_version(2, like=2))
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]
    status = client.status()
    assert status[1] == (AVAILABLE, "")
    assert status[2][0] == END
    assert "cannot load the SavedModel" in status[2][1]
    assert refusal(client.logits, version=2)[0] == "NOT_FOUND"


def test_the_last_good_version_goes_on_where_only_damaged_ones_are_left_on_disk(
    serve_base, add_version, base
):
    add_version(1)
    server, client = serve_base()
    damage_no_variables(add_version(2))
    shutil.rmtree(base / "1")
    server.manager.refresh()
    assert client.logits() == [111.0, 1.0]


def test_after_a_restart_a_damaged_newest_version_does_not_hide_the_good_one(
    serve_base, add_version
):
    add_version(1)
    damage_no_variables(add_version(2))
    _, client = serve_base()
    assert client.logits() == [111.0, 1.0]
    assert client.status()[2][0] == END


def test_a_half_copied_version_is_loaded_once_the_copy_is_complete(
    serve_base, add_version, base, tmp_path
):
    add_version(1)
    server, client = serve_base()
    add_version(2, like=2)
    whole = (base / "2").rename(tmp_path / "whole")
    (base / "2").mkdir()
    shutil.copy(whole / "saved_model.pb", base / "2")
    server.manager.refresh()
    assert client.status()[2][0] == END
    shutil.copytree(whole, base / "2", dirs_exist_ok=True)
    server.manager.refresh()
    assert client.logits() == [112.0, 2.0]


def test_a_damaged_version_is_not_tried_again_until_its_files_change(
    serve_base, add_version, monkeypatch
):

    add_version(1)
    server, client = serve_base()
    damage_garbage(add_version(2))
    tries = []

    class Counting(versions.SavedModelRunner):
        def __init__(self, directory):
            tries.append(directory)
            super().__init__(directory)

    monkeypatch.setattr(versions, "SavedModelRunner", Counting)
    for _ in range(3):
        server.manager.refresh()
    assert len(tries) == 1
    assert client.logits() == [111.0, 1.0]
