"""A model of the shared schema, exported, with requests to its ranker and records for its adapter.

No test changes them, so that all tests of one worker share them.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.export.savedmodels import export_for_serving

#: Width of the meta embedding of the shared models.
DIM = 3


@pytest.fixture(scope="session")
def request_inputs(make_rows, as_columns):
    columns = {n: tf.constant(v) for n, v in as_columns(make_rows(6, seed=3)).items()}
    stored = np.random.default_rng(0).normal(size=(6, DIM)).astype("f")
    return {
        **columns,
        "meta_embedding": tf.constant(stored),
        "has_meta_embedding": tf.constant([True, False] * 3),
    }


@pytest.fixture(scope="session")
def support_of(as_columns):
    """``support_of(model, rows)``: the support set of one task."""

    def support(model, rows):
        features = model.encoder({n: tf.constant(v) for n, v in as_columns(rows).items()})
        columns = {n: tf.constant([[r[n] for r in rows]], tf.float32) for n in ("label", "weight")}
        return {"features": {n: v[None] for n, v in features.items()}, **columns}

    return support


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def base(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder, task_definition="member_tab", metrics={"auc": 0.7})
    return folder


@pytest.fixture(scope="session")
def ranker(base):
    return tf.saved_model.load(str(base / "ranker" / "1"))


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def tasks(make_rows):
    """Triples of task key, rows and query_start."""
    lengths = {"a": 7, "bä|1": 1, "c": 4}
    return [
        (key, make_rows(n, seed=i, start=10_000 * i), -1)
        for i, (key, n) in enumerate(lengths.items())
    ]
