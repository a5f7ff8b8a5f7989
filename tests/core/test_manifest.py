"""The manifest: read back as written, and refused where it does not fit."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.errors import VersionMismatchError
from tfrec_limaml.manifest import Manifest, latest_version
from tfrec_limaml.schema.schema import Feature


@pytest.fixture
def manifest(every_kind):
    schema = every_kind[0]
    return Manifest(
        model_version=3,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition="member",
        embedding_dim=4,
        inner_loop={"inner_steps": 1},
        metrics={"auc": 0.71},
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path, manifest):
    path = manifest.write(tmp_path / "3")
    assert path == tmp_path / "3" / "assets.extra" / "manifest.json"
    assert Manifest.read(tmp_path / "3") == manifest


def test_metrics_may_be_numbers_of_any_library(tmp_path, manifest):
    metrics = {"auc": np.float32(0.5), "tasks": np.int64(3), "loss": tf.constant(0.25)}
    dataclasses.replace(manifest, metrics=metrics).write(tmp_path / "3")
    assert Manifest.read(tmp_path / "3").metrics == {"auc": 0.5, "tasks": 3.0, "loss": 0.25}


@pytest.mark.parametrize("change", ["not json", {"colour": 1}, {"model_version": None}])
def test_a_missing_or_unreadable_manifest_is_named(tmp_path, manifest, change):
    with pytest.raises(
        VersionMismatchError, match=r"no manifest at .*manifest\.json: was this model exported"
    ):
        Manifest.read(tmp_path)
    path = manifest.write(tmp_path)
    content = json.loads(path.read_text())
    if change == {"model_version": None}:
        del content["model_version"]
    path.write_text(
        change
        if isinstance(change, str)
        else json.dumps({**content, **change} if "colour" in change else content)
    )
    with pytest.raises(VersionMismatchError, match=r"cannot read the manifest .*manifest\.json"):
        Manifest.read(tmp_path)


def test_another_schema_is_refused_with_both_fingerprints(every_kind, manifest):
    schema = every_kind[0]
    manifest.check_schema(schema)
    manifest.check_schema(schema.replace(carry=()))
    other = schema.replace(features=(*schema.features, Feature(name="new")))
    with pytest.raises(
        VersionMismatchError,
        match=f"{other.fingerprint()} .*{schema.fingerprint()} of model version 3",
    ):
        manifest.check_schema(other)


def test_the_latest_version_is_the_highest_number_not_the_last_name(tmp_path):
    with pytest.raises(VersionMismatchError, match=r"no exported version below .*limaml export"):
        latest_version(tmp_path / "ranker")
    for name in ("9", "10", ".writing-11", "notes", "²", "1²"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file")
    assert latest_version(tmp_path).name == "10"
