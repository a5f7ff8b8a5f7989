"""The exported SavedModels against the model that they were made from."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.export.adapter import adapter_module
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.tasks.record_format import encode_task

DIM = 3


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def base(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder, task_definition="member_tab", metrics={"auc": 0.7})
    return folder


@pytest.fixture(scope="module")
def ranker(base):
    return tf.saved_model.load(str(base / "ranker" / "1"))


@pytest.fixture(scope="module")
def adapter(base):
    loaded = tf.saved_model.load(str(base / "adapter" / "1"))

    def adapt(*serialized):
        return {
            n: v.numpy()
            for n, v in loaded.signatures["serving_default"](
                task_records=tf.constant(serialized)
            ).items()
        }

    adapt.loaded = loaded
    return adapt


def _signatures(directory):
    """As TensorFlow Serving sees them."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())

    def described(tensors):
        return {
            n: (tf.dtypes.as_dtype(t.dtype).name, [d.size for d in t.tensor_shape.dim])
            for n, t in tensors.items()
        }

    signatures = saved.meta_graphs[0].signature_def
    return {
        n: (described(s.inputs), described(s.outputs))
        for n, s in signatures.items()
        if not n.startswith("__")
    }


def test_the_signatures_are_the_contract(base):
    rows = {
        "age": ("float32", [-1]),
        "Größe in cm": ("float32", [-1]),
        "look": ("float32", [-1, 3]),
        "visits": ("int64", [-1]),
        "land.code": ("string", [-1]),
        "tab": ("int64", [-1]),
        "page/kind": ("string", [-1]),
        "item": ("int64", [-1]),
        "class": ("string", [-1]),
        "tags": ("string", [-1]),
        "words": ("string", [-1]),
        "meta_embedding": ("float32", [-1, DIM]),
        "has_meta_embedding": ("bool", [-1]),
    }
    scores = {"probability": ("float32", [-1]), "logit": ("float32", [-1])}
    assert _signatures(base / "ranker" / "1") == {
        "serving_default": (rows, scores),
        "rank": (rows, scores),
        "serve_examples": ({"examples": ("string", [-1])}, scores),
    }
    outputs = {
        "task_key": ("string", [-1, 1]),
        "meta_embedding": ("float32", [-1, DIM]),
        "sample_count": ("int64", [-1, 1]),
        "last_timestamp": ("int64", [-1, 1]),
        "loss_before": ("float32", [-1, 1]),
        "loss_after": ("float32", [-1, 1]),
    }
    assert _signatures(base / "adapter" / "1") == {
        "serving_default": ({"task_records": ("string", [-1])}, outputs)
    }


def test_the_ranker_scores_like_the_model_with_and_without_an_embedding(
    model, ranker, request_inputs
):
    scores = ranker.signatures["serving_default"](**request_inputs)
    features = model.encoder(
        {f.name: request_inputs[f.name] for f in model.encoder.schema.all_features}
    )
    unadapted, stored = (
        model(features),
        tf.sigmoid(model.global_block(features, request_inputs["meta_embedding"])),
    )
    has = request_inputs["has_meta_embedding"].numpy()
    np.testing.assert_allclose(scores["probability"], np.where(has, stored, unadapted), rtol=1e-5)
    np.testing.assert_allclose(tf.sigmoid(scores["logit"]), scores["probability"], rtol=1e-5)
    assert np.abs(unadapted - stored).max() > 1e-2, (
        "the two must differ for this test to mean anything"
    )


def test_an_embedding_that_does_not_count_may_hold_anything(ranker, request_inputs):
    nothing = {**request_inputs, "has_meta_embedding": tf.zeros(6, bool)}
    call = ranker.signatures["serving_default"]
    with_nan = call(**{**nothing, "meta_embedding": tf.fill([6, DIM], np.nan)})
    without = call(**nothing)["logit"]
    np.testing.assert_array_equal(with_nan["logit"], without)  # one program, the same shapes


# Inputs of one row: all of the member, two meta features, the embedding, no meta feature, none.
MEMBER = ("age", "look", "class", "meta_embedding", "has_meta_embedding")


@pytest.mark.parametrize("per_member", [MEMBER, MEMBER[1:3], MEMBER[3:], ("Größe in cm",), ()])
def test_rank_repeats_inputs_of_length_one(ranker, request_inputs, per_member):
    once = {n: v[:1] if n in per_member else v for n, v in request_inputs.items()}
    repeated = {
        n: tf.repeat(v[:1], 6, 0) if n in per_member else v for n, v in request_inputs.items()
    }
    expected = ranker.signatures["serving_default"](**repeated)
    np.testing.assert_allclose(
        ranker.signatures["rank"](**once)["probability"], expected["probability"], 1e-5, 1e-6
    )
    assert len(set(expected["probability"].numpy().tolist())) == 6


@pytest.mark.parametrize("name", ["look", "Größe in cm", "meta_embedding"])
def test_rank_refuses_other_lengths_by_the_inputs_name(ranker, request_inputs, name):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        ranker.signatures["rank"](**{**request_inputs, name: request_inputs[name][:2]})
    said = str(caught.value)
    assert "must have 1 row or as many as the longest input" in said
    assert name in said


def _example(inputs, schema, row, leave_out=()):
    features = {}
    for name, values in inputs.items():
        if name in leave_out or name == "has_meta_embedding":
            continue
        value = np.atleast_1d(np.asarray(values[row]))
        if value.dtype == object:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=list(value)))
        elif value.dtype == np.int64:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_examples_score_like_tensors(model, ranker, request_inputs):
    has = request_inputs["has_meta_embedding"].numpy()
    examples = [
        _example(request_inputs, model.encoder.schema, i, () if has[i] else ("meta_embedding",))
        for i in range(6)
    ]
    scores = ranker.signatures["serve_examples"](examples=tf.constant(examples))
    np.testing.assert_allclose(
        scores["logit"], ranker.signatures["serving_default"](**request_inputs)["logit"], rtol=1e-5
    )


def test_an_example_may_lack_what_the_schema_fills_and_nothing_else(model, ranker, request_inputs):
    call = ranker.signatures["serve_examples"]
    short = _example(request_inputs, model.encoder.schema, 0, ("page/kind", "visits"))
    filled = {n: v[:1] for n, v in request_inputs.items()} | {
        "page/kind": tf.constant(["none"]),
        "visits": tf.constant([0], tf.int64),
    }
    np.testing.assert_allclose(
        call(examples=tf.constant([short]))["logit"],
        ranker.signatures["serving_default"](**filled)["logit"],
        rtol=1e-5,
    )
    for name in ("Größe in cm", "look"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=name):
            call(examples=tf.constant([_example(request_inputs, model.encoder.schema, 0, (name,))]))


def test_an_example_with_an_embedding_of_another_width_is_refused(model, ranker, request_inputs):
    wide = {**request_inputs, "meta_embedding": tf.zeros([6, DIM + 1])}
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="meta_embedding must hold 3 values or none"
    ):
        ranker.signatures["serve_examples"](
            examples=tf.constant([_example(wide, model.encoder.schema, 0)])
        )


@pytest.fixture(scope="module")
def tasks(make_rows):
    """Task key, rows, query_start."""
    lengths = {"a": 7, "bä|1": 1, "c": 4}
    return [
        (key, make_rows(n, seed=i, start=10_000 * i), -1)
        for i, (key, n) in enumerate(lengths.items())
    ]


def _encode(schema, tasks):
    return [encode_task(schema, *task) for task in tasks]


def _support(model, as_columns, rows):
    features = model.encoder({n: tf.constant(v) for n, v in as_columns(rows).items()})
    return {
        "features": {n: v[None] for n, v in features.items()},
        **{
            name: tf.constant([[r[name] for r in rows]], tf.float32) for name in ("label", "weight")
        },
    }


def test_the_adapter_embeds_like_the_model_whoever_shares_the_batch(
    model, adapter, as_columns, tasks
):
    together = adapter(*_encode(model.encoder.schema, tasks))
    for i, task in enumerate(tasks):
        embedding, before, after, *_ = model.task_embeddings(_support(model, as_columns, task[1]))
        np.testing.assert_allclose(together["meta_embedding"][i], embedding[0], atol=2e-6)
        np.testing.assert_allclose(together["loss_before"][i], before, rtol=1e-5)
        np.testing.assert_allclose(together["loss_after"][i], after, rtol=1e-5)
        alone = adapter(*_encode(model.encoder.schema, [task]))
        for name in ("meta_embedding", "loss_before", "loss_after"):
            np.testing.assert_allclose(together[name][i], alone[name][0], atol=1e-6, err_msg=name)
    assert np.all(together["loss_after"] < together["loss_before"])


def test_the_adapter_tells_keys_counts_and_last_times(model, adapter, tasks):
    actual = adapter(*_encode(model.encoder.schema, tasks))
    assert [k.decode() for k in actual["task_key"][:, 0]] == ["a", "bä|1", "c"]
    assert actual["sample_count"].tolist() == [[7], [1], [4]]
    assert actual["last_timestamp"].tolist() == [[6000], [10_000], [23_000]]


def test_records_that_are_cut_are_embedded_by_their_support_part(model, adapter, tasks):
    key, rows, _ = tasks[0]
    schema = model.encoder.schema
    shortened = adapter(encode_task(schema, key, rows, 4))
    part = adapter(encode_task(schema, key, rows[:4]))
    assert shortened.pop("task_key") == part.pop("task_key")
    for name, value in part.items():  # a batch of another width: equal up to rounding
        bound = 1e-6 * np.linalg.norm(value)
        np.testing.assert_allclose(shortened[name], value, rtol=0, atol=bound, err_msg=name)


def test_a_record_without_support_is_not_adapted_and_has_seen_nothing(
    model, adapter, as_columns, tasks
):
    key, rows, _ = tasks[2]
    actual = adapter(encode_task(model.encoder.schema, key, rows, 0))
    assert (
        actual["sample_count"][0, 0],
        actual["last_timestamp"][0, 0],
        actual["loss_before"][0, 0],
    ) == (0, 0, 0.0)
    features = model.encoder({n: tf.constant(v) for n, v in as_columns(rows[:1]).items()})
    np.testing.assert_allclose(actual["meta_embedding"], model.meta_block(features), atol=1e-6)


def test_a_nan_in_one_record_stays_in_it(model, adapter, tasks):
    schema = model.encoder.schema
    clean = adapter(*_encode(schema, tasks))
    spoilt = [tasks[0], (tasks[1][0], [{**tasks[1][1][0], "age": np.nan}], -1), tasks[2]]
    actual = adapter(*_encode(schema, spoilt))
    assert np.isnan(actual["meta_embedding"][1]).all()
    for name in ("meta_embedding", "loss_before", "loss_after"):
        np.testing.assert_allclose(
            actual[name][[0, 2]], clean[name][[0, 2]], atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("pooling", ["mean", "max", "cosine"])
def test_the_adapter_pools_as_the_model_says(make_model, as_columns, tasks, pooling):
    model = make_model(pooling=pooling)
    signatures = adapter_module(model).signatures
    actual = signatures["serving_default"](
        task_records=tf.constant(_encode(model.encoder.schema, tasks))
    )["meta_embedding"]
    for i, (_, rows, _) in enumerate(tasks):
        np.testing.assert_allclose(
            actual[i], model.task_embeddings(_support(model, as_columns, rows))[0][0], atol=2e-6
        )


def test_records_of_another_schema_and_broken_ones_are_refused(model, adapter, tasks, every_kind):
    (good,) = _encode(model.encoder.schema, tasks[:1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid protocol message"):
        adapter(good, b"no record")
    fewer = every_kind[0].replace(
        features=tuple(f for f in every_kind[0].features if f.name != "land.code")
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"feature list .*land\.code.* does not hold one value per sample",
    ):
        adapter(*_encode(fewer, tasks[:1]))


# -- the files


def test_both_models_hold_the_same_manifest(base, model, every_kind):
    ranker, adapter = (Manifest.read(base / kind / "1") for kind in ("ranker", "adapter"))
    assert ranker == adapter
    assert (ranker.model_version, ranker.task_definition, ranker.embedding_dim) == (
        1,
        "member_tab",
        DIM,
    )
    assert ranker.schema_fingerprint == every_kind[0].fingerprint()
    assert ranker.schema == every_kind[0].to_dict()
    assert ranker.inner_loop == {
        "inner_learning_rate": 0.5,
        "inner_steps": 1,
        "fine_tune_steps": 2,
        "pooling": "latest",
    }
    assert (ranker.training_window, ranker.metrics) == (
        {"start": 1, "end": 9_000_000},
        {"auc": 0.7},
    )
    assert ranker.libraries["tensorflow"] == tf.__version__


def test_warm_up_requests_cover_both_signatures_and_all_batch_sizes(base, ranker):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = base / "ranker" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    seen = []
    for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = apis.PredictionLog.FromString(serialized).predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()
        }
        scores = ranker.signatures[request.model_spec.signature_name](**inputs)
        seen.append((request.model_spec.signature_name, int(scores["logit"].shape[0])))
    assert seen == [
        (name, size) for name in ("serving_default", "rank") for size in (1, 10, 100, 500)
    ]


LOAD_PLAINLY = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("tfrec_limaml", "limaml_serving", "limaml_beam", "keras", "tf_keras"):
            raise ImportError(name)
import json
import tensorflow as tf
for name in [n for n in sys.modules if n.split(".")[0] == "keras"]:
    del sys.modules[name]  # TensorFlow imports it
sys.meta_path.insert(0, Refuse())
ranker, adapter, asked = sys.argv[1:]
inputs = {n: tf.constant(v, d) for n, (d, v) in json.load(open(asked)).items()}
records = tf.io.decode_base64(inputs.pop("records"))
call = tf.saved_model.load(adapter).signatures["serving_default"]
answer = {"embeddings": call(task_records=records)["meta_embedding"].numpy().tolist()}
answer["logit"] = tf.saved_model.load(ranker).signatures["serving_default"](**inputs)["logit"].numpy().tolist()
answer["graph"] = []
for path, feed in ((ranker, inputs), (adapter, {"task_records": records})):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        fed = {signature.inputs[n].name: v.numpy() for n, v in feed.items()}
        output = signature.outputs["logit" if path == ranker else "meta_embedding"].name
        answer["graph"].append(session.run(output, fed).tolist())
assert "tfrec_limaml" not in sys.modules
assert "keras" not in sys.modules
print(json.dumps(answer))
"""  # noqa: E501


def test_both_models_load_and_answer_alike_without_keras_and_this_package_and_in_a_graph_session(
    base, model, ranker, adapter, request_inputs, tasks, tmp_path
):
    serialized = _encode(model.encoder.schema, tasks)
    asked = {
        n: (
            v.dtype.name,
            [x.decode() for x in v.numpy()] if v.dtype == tf.string else v.numpy().tolist(),
        )
        for n, v in request_inputs.items()
    }
    asked["records"] = ("string", [tf.io.encode_base64(s).numpy().decode() for s in serialized])
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    paths = [base / "ranker" / "1", base / "adapter" / "1", tmp_path / "asked.json"]
    command = [sys.executable, "-c", LOAD_PLAINLY, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    logit = ranker.signatures["serving_default"](**request_inputs)["logit"]
    embeddings = adapter(*serialized)["meta_embedding"]
    for actual in (answer["logit"], answer["graph"][0]):
        np.testing.assert_allclose(actual, logit, rtol=1e-5)
    for actual in (answer["embeddings"], answer["graph"][1]):
        np.testing.assert_allclose(actual, embeddings, rtol=1e-5)


@pytest.mark.parametrize("learned", ["rates", "kappa"])
def test_what_is_learned_of_the_inner_steps_reaches_the_adapter(
    make_model, tasks, learned, tmp_path
):
    keras.backend.clear_session()
    if learned == "rates":
        model = make_model(learn_inner_rates=True)
        for rate in model.rates:
            rate.assign(tf.zeros_like(rate))
    else:
        model = make_model(support_reduction="shrunk")
        model.scaled_log_kappa.assign(5.0)  # kappa e^50: no step is left
    exported = adapter_module(model)
    tf.saved_model.save(exported.module, str(tmp_path), signatures=exported.signatures)
    actual = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](
        task_records=tf.constant(_encode(model.encoder.schema, tasks))
    )
    np.testing.assert_allclose(actual["loss_before"], actual["loss_after"], rtol=1e-6)
