"""The exported files: signatures, manifest, warm-up requests, and loading without Keras."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.manifest import Manifest
from tfrec_limaml.tasks.record_format import encode_task

DIM = 3
LOAD_PLAINLY = Path(__file__).with_name("load_plainly.py")


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


@pytest.mark.parametrize("kind", ["ranker", "adapter"])
def test_a_model_has_no_gradients_and_loading_it_warns_of_nothing(base, kind, caplog):
    assert b"internal_grad_fn" not in (base / kind / "1" / "saved_model.pb").read_bytes()
    logging.getLogger("absl").addHandler(caplog.handler)
    try:
        tf.saved_model.load(str(base / kind / "1"))
    finally:
        logging.getLogger("absl").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []


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


def test_both_models_load_and_answer_alike_without_keras_and_this_package_and_in_a_graph_session(
    base, model, ranker, adapter, request_inputs, tasks, tmp_path
):
    serialized = [encode_task(model.encoder.schema, *task) for task in tasks]
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
    command = [sys.executable, str(LOAD_PLAINLY), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    logit = ranker.signatures["serving_default"](**request_inputs)["logit"]
    embeddings = adapter(*serialized)["meta_embedding"]
    for actual in (answer["logit"], answer["graph"][0]):
        np.testing.assert_allclose(actual, logit, rtol=1e-5, atol=1e-6)
    for actual in (answer["embeddings"], answer["graph"][1]):
        np.testing.assert_allclose(actual, embeddings, rtol=1e-5, atol=1e-6)
