"""Blocks by name, on a schema with every kind of feature; and what all of them must survive: a
fresh process, fit and export.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import zip_longest

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks
from toys import toy_schema

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training import model_options
from tfrec_limaml.training.block_catalogue import GLOBAL_BLOCKS, META_BLOCKS
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.recipes import build_model

pytestmark = pytest.mark.slow

OPTIONS = ModelOptions.paper().replace(
    meta_units=(5,),
    embedding_dim=4,
    global_units=(6, 5),
    dropout=0.1,
    inner_learning_rate=0.5,
    unadapted_loss_weight=1.0,
)
#: Every meta block and every global block once.
PAIRS = list(zip_longest(META_BLOCKS, GLOBAL_BLOCKS, fillvalue="mlp"))
LOAD = """
import json, sys
import keras
import numpy as np
import tfrec_limaml
folder = sys.argv[1]
rows = {name: value for name, value in np.load(folder + "/rows.npz").items()}
found = {name: keras.saving.load_model(f"{folder}/{name}.keras")(rows).numpy().tolist() for name in json.loads(sys.argv[2])}
print(json.dumps(found))
"""  # noqa: E501


@pytest.fixture(scope="module")
def encoder():
    schema = toy_schema(
        Feature(name="user", role="meta", dtype="string", encoding="vocabulary", embedding_width=3),
        Feature(name="meta", role="meta", width=3, normalise="none"),
        Feature(name="item", dtype="int64", encoding="hash", buckets=9, embedding_width=3),
        Feature(name="other", width=2, normalise="none"),
        Feature(
            name="tags", dtype="string", encoding="vocabulary", separator=",", embedding_width=2
        ),
        tasks={"user": ("user",), "place": ("user", "item")},
    )
    words = {"user": {"vocabulary": list("abcde")}, "tags": {"vocabulary": ["x", "y"]}}
    return FeatureEncoder(schema, Statistics(rows=9, label_mean=0.5, window={}, features=words))


def encoder_of(encoder, task):
    """The encoder of another task definition."""
    return FeatureEncoder(encoder.schema, encoder.statistics, task)


def _batch(make_samples, lengths, seed):
    samples = make_samples(lengths, "float32", seed)
    features = samples["features"]
    hot = tf.one_hot(features["item"] % 3, 3)
    return {**samples, "features": {**features, "tags": hot}}


@pytest.fixture(scope="module")
def trained(encoder, make_samples):
    """One model per pair of blocks, after an epoch of one batch, under ``"<meta> <global>"``."""
    batch = {
        "support": _batch(make_samples, [3, 2, 1, 0], 0),
        "query": _batch(make_samples, [2, 2, 1, 2], 1),
    }
    models = {}
    for meta, head in PAIRS:
        keras.utils.set_random_seed(1)
        model = build_model("limaml", encoder, OPTIONS.replace(meta_block=meta, global_block=head))
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        models[f"{meta} {head}"] = model
    return models


def test_the_command_line_offers_every_block():
    assert set(model_options.META_BLOCK_NAMES) == set(META_BLOCKS)
    assert set(model_options.GLOBAL_BLOCK_NAMES) == set(GLOBAL_BLOCKS)


def test_every_block_scores_the_same_in_a_fresh_process_that_imports_the_package(
    trained, make_model, make_samples, tmp_path
):
    models = {
        **trained,
        "keras functional": make_model("keras", "functional", "float32"),
        "mlp dcn of all": make_model("mlp", "dcn of all", "float32"),
    }
    rows = flatten_tasks(_batch(make_samples, [4, 2], 3)["features"])
    np.savez(tmp_path / "rows.npz", **rows)
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path, json.dumps(list(models))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    actual = json.loads(done.stdout.splitlines()[-1])
    for name, model in models.items():
        np.testing.assert_allclose(actual[name], model(rows), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("pair", [" ".join(pair) for pair in PAIRS])
def test_the_exported_models_embed_and_score_as_the_model_does(pair, trained, encoder, tmp_path):
    model = trained[pair]
    export_for_serving(model, tmp_path, model_version=1)
    rng = np.random.default_rng(0)
    rows = [
        {
            "user": "b",
            "item": int(rng.integers(99)),
            "meta": rng.normal(size=3),
            "other": rng.normal(size=2),
            "tags": "x,y",
            "label": float(i % 2),
            "timestamp": i,
        }
        for i in range(3)
    ]
    adapter = tf.saved_model.load(str(tmp_path / "adapter" / "1")).signatures["serving_default"]
    embedding = adapter(task_records=tf.constant([encode_task(encoder.schema, "b", rows)]))[
        "meta_embedding"
    ]
    columns = {
        f.name: tf.constant([row[f.name] for row in rows], f.dtype)
        for f in encoder.schema.all_features
    }
    features = encoder(columns)
    support = {
        "features": {name: value[None] for name, value in features.items()},
        "label": tf.constant([[0.0, 1.0, 0.0]]),
        "weight": tf.ones([1, 3]),
    }
    np.testing.assert_allclose(embedding, model.task_embeddings(support)[0], rtol=1e-4, atol=1e-5)
    ranker = tf.saved_model.load(str(tmp_path / "ranker" / "1")).signatures["serving_default"]
    stored = tf.repeat(embedding, 3, 0)
    logits = ranker(
        **columns, meta_embedding=stored, has_meta_embedding=tf.constant([True, True, False])
    )["logit"]
    unadapted = model.meta_block(features)
    known = tf.constant([[True], [True], [False]])
    expected = model.global_block(features, model.meta_block.from_stored(stored, known, unadapted))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_an_id_block_takes_the_task_s_key_and_the_global_block_leaves_it_alone(trained):
    model = trained["id wide_and_deep"]
    assert model.meta_block.offsets.feature == "user"
    assert "user" not in model.global_block.wide_ids
    assert "user" in trained["mlp mlp"].global_block.inputs_layer.embeddings


def test_no_table_holds_the_key_of_tasks_that_have_an_offset(trained, encoder):
    model = trained["offset dot_product"]
    assert "user" not in model.meta_block.shared.inputs_layer.embeddings
    assert set(model.global_block.inputs_layer.embeddings) == {"item", "tags"}
    vanilla = build_model("vanilla", encoder, model_options.ModelOptions())
    assert "user" not in vanilla.meta_block.shared.inputs_layer.embeddings
    assert set(vanilla.global_block.inputs_layer.embeddings) == {"user", "item", "tags"}
    pairs = build_model("limaml", encoder_of(encoder, "place"), model_options.ModelOptions())
    assert "user" in pairs.meta_block.shared.inputs_layer.embeddings


@pytest.mark.parametrize("name", ["id", "features+id"])
def test_a_task_that_no_single_feature_identifies_has_no_id_block(name, encoder):
    with pytest.raises(
        LimamlError,
        match=r"needs the task's key \['user', 'item'\] to be one feature with an embedding_width",
    ):
        META_BLOCKS[name](encoder, OPTIONS, "place")
