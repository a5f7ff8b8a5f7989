"""The task's key as a feature of the data sets that are built in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.datasets.registry import all_datasets
from tfrec_limaml.schema.schema import Schema


def _prepare(run_limaml, tmp_path, *arguments):
    run_limaml("datasets", "prepare", *arguments, "--output", tmp_path / "raw")
    return Schema.load(tmp_path / "raw" / "schema.yaml")


def test_the_members_of_the_simulated_world_become_a_feature(run_limaml, tmp_path):
    plain = _prepare(run_limaml, tmp_path / "plain", "simulated", "--members", 40, "--days", 12)
    schema = _prepare(
        run_limaml, tmp_path / "id", "simulated", "--members", 40, "--days", 12, "--id-feature"
    )
    first, *others = schema.features
    assert others == list(plain.features)
    assert (first.name, first.role, first.encoding, first.embedding_width) == (
        "member_id",
        "meta",
        "vocabulary",
        16,
    )


def test_the_users_of_kuairand_become_a_feature(run_limaml, tmp_path, tiny_kuairand):
    schema = _prepare(
        run_limaml,
        tmp_path,
        "kuairand-pure",
        "--data-dir",
        tiny_kuairand,
        "--tasks",
        "user,user_tab",
        "--id-feature",
    )
    assert schema.features[0].name == "user_id"


def test_every_data_set_has_a_task_definition_that_one_column_identifies():
    assert [
        name
        for name, dataset in all_datasets().items()
        if len(next(iter(dataset.tasks.values()))) != 1
    ] == []


def test_a_task_of_two_columns_has_no_id(capsys, tmp_path):
    arguments = ["simulated", "--members", "40", "--days", "12", "--tasks", "member_type,member"]
    assert (
        main(["datasets", "prepare", *arguments, "--id-feature", "--output", str(tmp_path / "raw")])
        == 2
    )
    assert (
        "'member_type' has ['member_id', 'notification_type']; "
        "put one with a single column first in --tasks" in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Task records of the simulated world with its members as a feature."""
    folder = tmp_path_factory.mktemp("simulated")
    world = ["simulated", "--members", "80", "--days", "12", "--id-feature"]
    assert main(["datasets", "prepare", *world, "--output", f"{folder}/raw"]) == 0
    assert main(["prepare", f"{folder}/raw", "--output", f"{folder}/tasks"]) == 0
    return folder / "tasks"


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("block", ["id", "features+id"])
def test_an_id_meta_block_trains_on_it_through_the_commands(run_limaml, tasks, tmp_path, block):
    options = ["--meta-block", block, "--epochs", 1, "--inner-steps", 1, "--no-strength"]
    trained = run_limaml("train", tasks, "--output", tmp_path / "run", *options)
    assert trained["algorithm"] == "limaml"
    import keras

    model = keras.models.load_model(tmp_path / "run" / "limaml.keras")
    assert model.meta_block.offsets.feature == "member_id"
    (table,) = model.meta_block.offsets.trainable_variables
    moved = (table.numpy() != 0).any(axis=1)
    assert not moved[0], "members that training never saw keep the prior"
    assert moved[1:].all(), "every member of the training rows has an offset of its own"


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_members_of_whom_only_the_key_is_known_are_trained_on_exported_and_ranked(
    run_limaml, tmp_path
):
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    log = pd.DataFrame(
        {
            "member_id": rng.choice([f"m{n}" for n in range(60)], 2000),
            "item_id": rng.choice([f"i{n}" for n in range(70)], 2000),
            "clicked": rng.integers(0, 2, 2000),
            "timestamp": 1_700_000_000 + 900 * np.arange(2000),
        }
    )
    log.to_csv(tmp_path / "log.csv", index=False)
    run_limaml("datasets", "describe", tmp_path / "log.csv", "--write-schema", tmp_path / "s.yaml")
    given = ["--schema", tmp_path / "s.yaml", "--interactions", tmp_path / "log.csv"]
    run_limaml("datasets", "prepare", *given, "--output", tmp_path / "raw")
    run_limaml("prepare", tmp_path / "raw", "--output", tmp_path / "tasks")
    options = ["--epochs", 1, "--no-strength"]
    trained = run_limaml("train", tmp_path / "tasks", "--output", tmp_path / "run", *options)
    assert np.isfinite(trained["best_val_auc"])
    run_limaml("export", tmp_path / "run", "--output", tmp_path / "export")
    model = keras.saving.load_model(tmp_path / "run" / "limaml.keras")
    assert model.meta_block.shared.inputs_layer.embeddings == {}
    columns = {"member_id": tf.constant(["m1", "m2"]), "item_id": tf.constant(["i3", "new"])}
    rank = tf.saved_model.load(str(tmp_path / "export" / "ranker" / "1")).signatures
    stored = rng.normal(size=(2, model.meta_block.embedding_dim)).astype("f")
    for known in (False, True):
        answer = rank["serving_default"](
            **columns,
            meta_embedding=tf.constant(stored),
            has_meta_embedding=tf.constant([known] * 2),
        )
        features = model.encoder(columns)
        embedding = model.meta_block(features) + (stored if known else 0.0)
        expected = model.global_block(features, embedding)
        np.testing.assert_allclose(answer["logit"], expected, rtol=1e-5, atol=1e-6)
