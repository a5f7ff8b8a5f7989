"""The client against the embedded server and a real SavedModel: store, versions and graph
together.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from toys import toy_schema, toy_statistics

from limaml_serving import Ranker, ServingError
from limaml_serving.server import EmbeddedServer
from tfrec_limaml.store import open_store
from tfrec_limaml.training.model_options import ModelOptions


class Scale(tf.Module):
    """A ranker in miniature: ``logit = price + tab + len(country) + 10000 version + 100
    embedding[0]``.
    """

    def __init__(self, version: int) -> None:
        self.version = tf.Variable(float(version))

    def score(self, age, country, tab, price, image, meta_embedding, has_meta_embedding):
        logit = (
            price
            + tf.cast(tab, tf.float32)
            + tf.cast(tf.strings.length(country), tf.float32)
            + 10000.0 * self.version
        )
        logit += tf.where(has_meta_embedding, 100.0 * meta_embedding[:, 0], 0.0) + 0.0 * (
            age + tf.reduce_sum(image, axis=1)
        )
        return {"probability": tf.sigmoid(logit), "logit": logit}


def save_ranker(directory, manifest):
    """Writes a version directory with the signatures that an exported ranker has."""
    model = Scale(manifest.model_version)
    inputs = {
        "age": tf.TensorSpec([None], tf.float32, "age"),
        "country": tf.TensorSpec([None], tf.string, "country"),
        "tab": tf.TensorSpec([None], tf.int64, "tab"),
        "price": tf.TensorSpec([None], tf.float32, "price"),
        "image": tf.TensorSpec([None, 2], tf.float32, "image"),
        "meta_embedding": tf.TensorSpec(
            [None, manifest.embedding_dim], tf.float32, "meta_embedding"
        ),
        "has_meta_embedding": tf.TensorSpec([None], tf.bool, "has_meta_embedding"),
    }
    function = tf.function(model.score).get_concrete_function(**inputs)
    tf.saved_model.save(
        model, str(directory), signatures={"serving_default": function, "rank": function}
    )
    manifest.write(directory)


@pytest.fixture(scope="module")
def export(tmp_path_factory, make_manifest):
    base = tmp_path_factory.mktemp("export")
    for version in (1, 2):
        save_ranker(base / "ranker" / str(version), make_manifest(version))
    return base


@pytest.fixture
def embeddings(tmp_path):
    store = open_store(f"lmdb:{tmp_path / 'store'}")
    for version in (1, 2):
        with store.new_generation(version, 3) as writer:
            writer.put(["7"], np.array([[version, 0, 0]], np.float32))
            writer.publish(expected_count=1)
    yield store
    store.close()


@pytest.fixture
def embedded(export):
    with EmbeddedServer({"ranker": export / "ranker"}, poll_seconds=0.05) as server:
        yield server


def test_rank_and_rank_many_agree_with_the_model_called_in_process(
    embedded, embeddings, export, member, candidates
):
    with Ranker(embedded.target, embeddings, manifest=export, timeout=20.0) as ranker:
        alone = ranker.rank(member, candidates)
        many = ranker.rank_many([(member, candidates), ({**member, "user_id": 99}, candidates)])
    inner = candidates["price"] + candidates["tab"] + len("CH") + 20000
    np.testing.assert_allclose(alone.logit, np.sort(inner + 200)[::-1])
    np.testing.assert_array_equal(many[0].logit, alone.logit)
    np.testing.assert_allclose(many[1].logit, np.sort(inner)[::-1])
    assert alone.model_version == 2


def test_a_wrong_model_name_is_not_found(embedded, embeddings, export, member, candidates):
    with (
        Ranker(
            embedded.target, embeddings, manifest=export, model_name="other", timeout=20.0
        ) as ranker,
        pytest.raises(ServingError) as caught,
    ):
        ranker.rank(member, candidates)
    assert caught.value.code == "NOT_FOUND"


def test_a_new_version_directory_is_followed_under_load_without_a_failed_or_mixed_request(
    tmp_path, make_manifest, export, embeddings, member, candidates
):
    base = tmp_path / "growing" / "ranker"
    base.mkdir(parents=True)
    shutil.copytree(export / "ranker" / "1", base / "1")
    shutil.copytree(export / "ranker" / "2", tmp_path / "staging")
    stop, problems, versions = threading.Event(), [], set()
    with (
        EmbeddedServer({"ranker": base}, poll_seconds=0.05) as server,
        Ranker(
            server.target, embeddings, manifest=base.parent, timeout=20.0, refresh_seconds=0.05
        ) as ranker,
    ):

        def load():
            while not stop.is_set():
                ranked = ranker.rank(member, candidates)
                used = np.round(ranked.logit // 10000), np.round(ranked.logit % 10000 // 100)
                if not np.all(used[0] == used[1]) or not ranked.used_embedding.all():
                    problems.append(ranked)
                versions.add(ranked.model_version)
                if ranked.model_version == 2:
                    stop.set()

        thread = threading.Thread(target=load)
        thread.start()
        (tmp_path / "staging").rename(base / "2")
        thread.join(60)
        stop.set()
        thread.join()
    assert problems == []
    assert 2 in versions


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a real, untrained LiMAML model with a string, an integer, a number and an
    embedded feature.
    """
    import keras

    from tfrec_limaml.export.savedmodels import export_for_serving
    from tfrec_limaml.schema.schema import Feature
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
    from tfrec_limaml.training.recipes import build_model

    schema = toy_schema(
        Feature(name="country", role="meta", dtype="string", encoding="vocabulary"),
        Feature(name="age", role="meta", fill_value=30.0),
        Feature(name="item", dtype="string", encoding="hash", buckets=50, embedding_width=4),
        Feature(name="tab", dtype="int64", encoding="vocabulary"),
        label="y",
        timestamp="t",
    )
    statistics = toy_statistics(
        {
            "country": {"vocabulary": ["CH", "NZ"], "counts": [2, 1]},
            "age": {"mean": [30.0], "variance": [100.0]},
            "tab": {"vocabulary": [0, 1], "counts": [2, 1]},
        },
    )
    options = ModelOptions.paper().replace(meta_units=(8,), embedding_dim=3, global_units=(8,))
    base = tmp_path_factory.mktemp("exported")
    keras.utils.set_random_seed(3)  # no logit near zero, where the relative bound would be tight
    export_for_serving(
        build_model("limaml", FeatureEncoder(schema, statistics), options), base, model_version=2
    )
    return base


def test_an_exported_model_scores_through_server_and_client_as_it_does_in_process(
    exported, embeddings
):
    member = {"user_id": 7, "country": "NZ", "age": 55}
    candidates = {"item": ["a", "b", "c"], "tab": np.array([0, 1, 5])}
    with (
        EmbeddedServer({"ranker": exported / "ranker"}) as server,
        Ranker(server.target, embeddings, manifest=exported, timeout=20.0) as ranker,
    ):
        ranked = {
            True: ranker.rank(member, candidates),
            False: ranker.rank({**member, "user_id": 99}, candidates),
        }
    signature = tf.saved_model.load(str(exported / "ranker" / "2")).signatures["serving_default"]
    for adapted, answer in ranked.items():
        expected = signature(
            country=tf.constant(["NZ"] * 3),
            age=tf.constant([55.0] * 3),
            item=tf.constant(candidates["item"]),
            tab=tf.constant(candidates["tab"]),
            meta_embedding=tf.constant([[2.0, 0.0, 0.0]] * 3),
            has_meta_embedding=tf.constant([adapted] * 3),
        )
        np.testing.assert_allclose(answer.logit, expected["logit"].numpy()[answer.order], rtol=1e-5)
        np.testing.assert_allclose(
            answer.probability, expected["probability"].numpy()[answer.order], rtol=1e-5
        )
        assert answer.used_embedding.tolist() == [adapted] * 3
    assert not np.allclose(np.sort(ranked[True].logit), np.sort(ranked[False].logit))


def test_the_example_with_stock_stubs_ranks(embedded, tmp_path):
    request = {
        "age": [41.0],
        "country": ["CH"],
        "tab": [0],
        "price": [3.0, 9.0],
        "image": [[0.0, 0.0]],
    }
    request |= {"meta_embedding": [[2.0, 0.0, 0.0]], "has_meta_embedding": [True]}
    (tmp_path / "requests.json").write_text(json.dumps(request))
    script = Path(__file__).parents[3] / "serving" / "examples" / "plain_stub_client.py"
    command = [sys.executable, script, embedded.target, tmp_path / "requests.json"]
    lines = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120
    ).stdout.splitlines()
    assert [line.split()[3] for line in lines] == ["1", "0"]
    assert all(line.startswith("version 2:") for line in lines)
