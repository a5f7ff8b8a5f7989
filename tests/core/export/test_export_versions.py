"""Exported versions: how they are numbered, when they become visible, and what is refused."""

from __future__ import annotations

import json
import os
import types

import keras
import numpy as np
import pytest

from tfrec_limaml import MLPGlobalBlock, MLPMetaBlock, Vanilla, staging
from tfrec_limaml.cli import main
from tfrec_limaml.commands import export
from tfrec_limaml.errors import LimamlError, SchemaError, VersionMismatchError
from tfrec_limaml.export import savedmodels as export_module
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.manifest import Manifest, latest_version

DIM = 3


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture
def quick_save(monkeypatch):
    """Writes an empty folder instead of a SavedModel; no traces, no hooks."""
    monkeypatch.setattr(export_module, "adapter_module", lambda model: None)
    monkeypatch.setattr(export_module, "ranker_module", lambda model: None)
    monkeypatch.setattr(export_module, "entry_points", lambda group: [])
    monkeypatch.setattr(export_module, "write_saved_model", lambda *_: None)


def _versions(folder):
    return {
        kind: sorted(p.name for p in (folder / kind).iterdir()) for kind in ("adapter", "ranker")
    }


def test_versions_count_up_from_the_highest_and_existing_ones_are_refused(
    quick_save, model, tmp_path
):
    (tmp_path / "ranker" / "7").mkdir(parents=True)
    for name in ("notes", "9²"):  # str.isdigit is true of the second
        (tmp_path / "adapter" / name).mkdir(parents=True)
    assert export_for_serving(model, tmp_path).model_version == 8
    assert export_for_serving(model, tmp_path).model_version == 9
    assert export_for_serving(model, tmp_path, model_version=3).model_version == 3
    with pytest.raises(LimamlError, match=r"version 7 exists at .*ranker/7; choose another"):
        export_for_serving(model, tmp_path, model_version=7)
    for bad in (0, -1, 2.7, True, "two", "-1", np.float64(3)):
        with pytest.raises(LimamlError, match="must be a positive integer, received ") as caught:
            export_for_serving(model, tmp_path, model_version=bad)
        assert str(caught.value).endswith(f"received {bad!r}")
    with pytest.raises(LimamlError, match=r"must be below 2\*\*63, received 9223372036854775808"):
        export_for_serving(model, tmp_path, model_version=2**63)
    assert _versions(tmp_path) == {
        "adapter": ["3", "8", "9", "9²", "notes"],
        "ranker": ["3", "7", "8", "9"],
    }
    assert latest_version(tmp_path / "ranker").name == "9"
    (tmp_path / "adapter" / "12").mkdir()
    assert export_for_serving(model, tmp_path).model_version == 13


def test_a_failure_half_way_leaves_nothing_behind(quick_save, monkeypatch, model, tmp_path):
    def fail_on_the_ranker(exported, directory):
        if "ranker" in directory.parts:
            raise OSError("disk full")

    export_for_serving(model, tmp_path)
    monkeypatch.setattr(export_module, "write_saved_model", fail_on_the_ranker)
    with pytest.raises(OSError, match="disk full"):
        export_for_serving(model, tmp_path)
    assert _versions(tmp_path) == {"adapter": ["1"], "ranker": ["1"]}


def test_the_adapter_becomes_visible_before_the_ranker(quick_save, monkeypatch, model, tmp_path):
    """A server may load the ranker at once, and then clients look up its embeddings."""
    rename, made = staging.Path.rename, []

    def noted(path, target):
        made.append(str(target.relative_to(tmp_path)))
        return rename(path, target)

    monkeypatch.setattr(staging.Path, "rename", noted)
    export_for_serving(model, tmp_path)
    assert made == ["adapter/1", "ranker/1"]


def test_hooks_see_the_ranker_before_it_becomes_visible(quick_save, monkeypatch, model, tmp_path):
    seen = []

    class Hook:
        def load(self):
            return lambda directory, manifest: seen.append(
                (Manifest.read(directory) == manifest, (tmp_path / "ranker" / "1").exists())
            )

    monkeypatch.setattr(
        export_module,
        "entry_points",
        lambda group: [Hook()] if group == "limaml.export_hooks" else [],
    )
    export_for_serving(model, tmp_path)
    assert seen == [(True, False)]


def test_models_without_an_embedding_or_an_encoder_and_unknown_definitions_are_refused(
    model, tmp_path
):
    blocks = MLPMetaBlock((2,), 2), MLPGlobalBlock((2,))
    with pytest.raises(
        LimamlError, match="only LiMAML models have a meta embedding to export, received Vanilla"
    ):
        export_for_serving(Vanilla(*blocks), tmp_path)
    with pytest.raises(LimamlError, match="no encoder; build it as"):
        export_for_serving(type(model)(*blocks), tmp_path)
    with pytest.raises(SchemaError, match=r"'tab'.*\['member', 'member_tab'\]"):
        export_for_serving(model, tmp_path, task_definition="tab")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_manifest_is_told_by_path(tmp_path):
    with pytest.raises(VersionMismatchError, match=r"no manifest at .*manifest\.json"):
        Manifest.read(tmp_path)


def test_the_file_of_a_model_in_place_of_its_folder_is_told_with_the_folder(tmp_path, capsys):
    (tmp_path / "limaml.keras").touch()
    arguments = ["export", f"{tmp_path}/limaml.keras", "--output", f"{tmp_path}/out"]
    assert main(arguments) == 2
    assert f"limaml.keras is a file; give its folder, {tmp_path}\n" in capsys.readouterr().err


def test_the_manifest_has_the_metrics_of_this_model_and_their_split(tmp_path):
    model, evaluation = tmp_path / "limaml.keras", tmp_path / "evaluation.json"
    model.touch()
    assert export._metrics(model) == {}
    row = {"algorithm": "limaml", "fine_tune": True}
    results = [
        {"algorithm": "vanilla", "fine_tune": False, "auc": 0.5},
        {**row, "fine_tune": False, "auc": 0.6},
        {**row, "auc": 0.7},
        {**row, "auc": 0.65, "side": "item"},
        {**row, "auc": 0.69, "served": True},
    ]
    evaluation.write_text(json.dumps({"split": "test", "results": results}))
    assert export._metrics(model) == {
        **{"split": "test", "auc_unadapted": 0.6, "auc_fine_tuned": 0.7, "auc_as_served": 0.69}
    }
    os.utime(evaluation, (0, 0))  # of an earlier training
    assert export._metrics(model) == {}


@pytest.mark.parametrize(
    ("options", "measured"),
    [((), True), (("--fine-tune-steps", "2"), True), (("--fine-tune-steps", "0"), False)],
)
def test_the_manifest_has_no_metrics_of_other_settings(tmp_path, monkeypatch, options, measured):
    (tmp_path / "limaml.keras").touch()
    row = {"algorithm": "limaml", "fine_tune": True, "auc": 0.7}
    (tmp_path / "evaluation.json").write_text(json.dumps({"split": "test", "results": [row]}))
    block = types.SimpleNamespace(stores_offset=True)
    model = types.SimpleNamespace(fine_tune_steps=2, pooling="latest", meta_block=block)
    monkeypatch.setattr(keras.saving, "load_model", lambda path: model)
    written = {}

    def export_for_serving(model, folder, **arguments):
        written.update(arguments)
        return types.SimpleNamespace(model_version=1, embedding_dim=3, schema_fingerprint="f")

    monkeypatch.setattr(export_module, "export_for_serving", export_for_serving)
    command = ["export", str(tmp_path), "--output", str(tmp_path / "export"), "--json"]
    assert main([*command, *options]) == 0
    assert written["metrics"] == ({"split": "test", "auc_fine_tuned": 0.7} if measured else {})


def test_settings_that_a_model_does_not_have_are_refused_by_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "limaml.keras").touch()
    block = types.SimpleNamespace(stores_offset=True)
    model = types.SimpleNamespace(fine_tune_steps=2, pooling="latest", meta_block=block)
    monkeypatch.setattr(keras.saving, "load_model", lambda path: model)
    command = ["export", str(tmp_path), "--output", str(tmp_path / "export")]
    for options, said in (
        (("--fine-tune-steps", "-1"), "--fine-tune-steps must be at least 0, received -1"),
        (("--pooling", "mean"), "stores one offset per task; leave it out"),
    ):
        assert main([*command, *options]) == 2
        assert said in capsys.readouterr().err
