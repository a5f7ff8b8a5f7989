"""Export of a model that adapts two definitions of which neither refines the other."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from joint_fixtures import JointWorld, joint_model

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.manifest import Manifest

USERS, VIDEOS, DIM = 6, 4, 4


@pytest.fixture(scope="module")
def model():
    return joint_model(fine_tune_steps=2)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder)
    return folder


@pytest.fixture(scope="module")
def world():
    return JointWorld.draw(USERS, VIDEOS, rows=60)


@pytest.fixture(scope="module")
def adapter(exported):
    return tf.saved_model.load(str(exported / "adapter" / "1")).signatures


@pytest.fixture(scope="module")
def ranker(exported):
    return tf.saved_model.load(str(exported / "ranker" / "1")).signatures


@pytest.mark.parametrize("side", [0, 1])
def test_the_adapter_names_the_other_task_of_each_row_as_the_store_does(adapter, world, side):
    found = adapter[f"other_keys_{side}"](task_records=tf.constant(world.records(side)))
    own, other = (world.user, world.video)[:: 1 - 2 * side]
    names = (lambda n: f"u{n}", lambda n: f"%|video|{n}")
    rows = [i for n in np.unique(own) for i in np.flatnonzero(own == n)]
    expected = [names[1 - side](other[i]).encode() for i in rows]
    assert found["other_key"].numpy().tolist() == expected


@pytest.mark.parametrize("side", [0, 1])
def test_the_adapter_solves_given_the_other_side_s_offsets(model, adapter, world, side):
    draw = np.random.default_rng(1)
    others = np.concatenate([np.zeros((1, DIM)), draw.normal(size=(5, DIM))]).astype(np.float32)
    place = draw.integers(0, 6, 60).astype(np.int32)  # of each row of the world
    own = (world.user, world.video)[side]
    rows = [i for n in np.unique(own) for i in np.flatnonzero(own == n)]
    given = adapter[f"given_{side}"](
        task_records=tf.constant(world.records(side)),
        other_row=tf.constant(place[rows]),
        other_offsets=tf.constant(others),
    )
    model.table.assign(others)
    for n, key in enumerate(given["task_key"].numpy()[:, 0]):
        assert key.decode() == (f"u{n}" if side == 0 else f"%|video|{n}")
        mine = np.flatnonzero(own == n)
        expected = model.task_embeddings(_support(model, world, mine, side, place[mine]))
        np.testing.assert_allclose(given["meta_embedding"][n], expected.embedding[0], atol=2e-5)
        np.testing.assert_allclose(given["loss_after"][n, 0], expected.loss_after[0], atol=1e-5)
        assert given["sample_count"][n, 0] == len(mine)


def test_without_a_known_other_side_the_default_signature_says_the_same(adapter, world):
    serialized = tf.constant(world.records(0))
    plain = adapter["serving_default"](task_records=serialized)
    given = adapter["given_0"](
        task_records=serialized,
        other_row=tf.zeros([60], tf.int32),
        other_offsets=tf.zeros([1, DIM]),
    )
    for name, value in plain.items():
        np.testing.assert_array_equal(value, given[name])


def _support(model, world, rows, side, place):
    rows_of = [world.row(i) for i in rows]
    features = model.encoder({n: tf.constant([r[n] for r in rows_of]) for n in ("x", "z")})
    sides = {
        "joint:side": tf.fill([1, len(rows)], side),
        "joint:other_row": tf.constant(place[None]),
    }
    return {
        "features": {**{n: v[None] for n, v in features.items()}, **sides},
        "label": tf.constant([[r["label"] for r in rows_of]], tf.float32),
        "weight": tf.ones([1, len(rows)]),
    }


def test_the_ranker_adds_either_stored_offset_and_goes_without_for_each_alone(model, ranker):
    draw = np.random.default_rng(2)
    x, z = (tf.constant(draw.normal(size=(4, 2)), tf.float32) for _ in range(2))
    stored = draw.normal(size=(2, 4, DIM)).astype(np.float32)
    has = np.array([[True, True, False, False], [True, False, True, False]])
    actual = ranker["serving_default"](
        x=x,
        z=z,
        meta_embedding=tf.constant(stored[0]),
        has_meta_embedding=tf.constant(has[0]),
        meta_embedding_video=tf.constant(stored[1]),
        has_meta_embedding_video=tf.constant(has[1]),
    )["logit"]
    features = model.encoder({"x": x, "z": z})
    offsets = np.concatenate(list(stored * has[..., None]), 1)
    expected = model.global_block(features, model.meta_block(features) + offsets)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_one_member_is_ranked_with_each_candidate_s_own_vector(ranker):
    draw = np.random.default_rng(3)
    n = 5
    once = {
        "x": draw.normal(size=(1, 2)),
        "meta_embedding": draw.normal(size=(1, DIM)),
        "has_meta_embedding": np.array([True]),
    }
    each = {
        "z": draw.normal(size=(n, 2)),
        "meta_embedding_video": draw.normal(size=(n, DIM)),
        "has_meta_embedding_video": draw.random(n) < 0.5,
    }
    kind = lambda v: tf.constant(v, tf.bool if v.dtype == bool else tf.float32)  # noqa: E731
    ranked = ranker["rank"](**{name: kind(v) for name, v in (once | each).items()})
    repeated = {name: np.repeat(v, n, 0) for name, v in once.items()}
    scored = ranker["serving_default"](**{name: kind(v) for name, v in (repeated | each).items()})
    np.testing.assert_allclose(ranked["logit"], scored["logit"], rtol=1e-6, atol=1e-6)


def test_the_manifest_names_both_definitions_and_how_often_the_sides_take_turns(exported):
    manifest = Manifest.read(exported / "adapter" / "1")
    assert manifest.task_definition == "user"
    assert manifest.further_definitions == manifest.joint_definitions == ("video",)
    assert (manifest.embedding_dim, manifest.inner_loop["sweeps"]) == (DIM, 2)
    with pytest.raises(LimamlError, match=r"adapts two definitions, \['user', 'video'\]: no"):
        manifest.refuse_two_definitions("no")


def test_warm_up_requests_hold_one_vector_of_the_member_and_one_of_each_candidate(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported / "ranker" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    widths = set()
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        shapes = {n: tf.make_ndarray(v).shape for n, v in request.inputs.items()}
        rows = shapes["meta_embedding_video"][0]
        assert shapes["has_meta_embedding_video"] == (rows,)
        member = 1 if request.model_spec.signature_name == "rank" else rows
        assert shapes["meta_embedding"] == (member, DIM)
        widths.add(rows)
    assert widths == {1, 10, 100, 500}


def test_another_task_definition_than_the_first_is_refused(model, tmp_path):
    with pytest.raises(LimamlError, match="cannot be exported for 'video'"):
        export_for_serving(model, tmp_path, task_definition="video")
