"""Posterior variances beside the stored vectors: in the Parquet files and a store of their own."""

from __future__ import annotations

import gzip
import json

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from toys import toy_schema, toy_statistics

from limaml_beam.generate_embeddings import tables
from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml import ModelOptions, export_for_serving
from tfrec_limaml.cli import main
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.store import open_store
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.training.recipes import build_model

pytestmark = pytest.mark.slow

D = 4
DAY = 86_400_000
SCHEMA = toy_schema(
    Feature(name="m", role="meta", width=2, normalise="none"),
    Feature(name="o", width=3, normalise="none"),
)
STATISTICS = toy_statistics(label_mean=0.4)


def _export(folder, **options):
    keras.utils.set_random_seed(1)
    model = build_model(
        "limaml",
        FeatureEncoder(SCHEMA, STATISTICS),
        ModelOptions(embedding_dim=D, global_units=(6, 5), meta_units=(4,)).replace(**options),
    )
    for variable in model.global_block.projection_layer.trainable_variables:
        variable.assign(np.random.default_rng(2).normal(0, 0.7, variable.shape))
    export_for_serving(model, folder)
    return model


@pytest.fixture(scope="module", params=["zero", "encoder"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return _export(folder, prior=request.param), folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Twenty tasks of 1 to 20 rows, and a damaged record."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "user").mkdir()
    SCHEMA.save(folder / "schema.yaml")
    records = []
    for n in range(20):
        rows = [
            {
                "m": [1.0, n / 9],
                "o": random.normal(size=3).tolist(),
                "label": float(random.random() < 0.5),
                "timestamp": 1_650_000_000_000 + i * DAY,
            }
            for i in range(n + 1)
        ]
        records.append(encode_task(SCHEMA, f"u{n}", rows))
    with gzip.open(folder / "user" / "recent-00000-of-00001.tfrecord.gz", "wb") as file:
        file.writelines(map(frame_record, [*records, records[0][:-9]]))
    with gzip.open(folder / "good.tfrecord.gz", "wb") as file:
        file.writelines(map(frame_record, records))
    return folder


def _embed(tasks, export, output, *flags):
    common = ["--export", str(export), "--output", str(output), "--max-bad-fraction", "0.1"]
    return main(["embed", str(tasks), *common, *flags])


def _rows(output):
    files = tables.embedding_files(str(output))
    return {r["task_key"]: r for file in files for r in pq.read_table(file).to_pylist()}


def test_variances_are_those_of_adaptation_and_leave_the_vectors_as_they_are(
    model, tasks, tmp_path
):
    model, export = model
    stores = [f"--store=lmdb:{tmp_path}/store", f"--variance-store=lmdb:{tmp_path}/variances"]
    assert _embed(tasks, export, tmp_path / "with", *stores) == 0
    assert _embed(tasks, export, tmp_path / "without") == 0
    found, plain = _rows(tmp_path / "with"), _rows(tmp_path / "without")
    assert found.keys() == plain.keys() == {f"u{n}" for n in range(20)}
    assert all("variance" not in row for row in plain.values())
    for key, row in found.items():
        np.testing.assert_allclose(row["embedding"], plain[key]["embedding"], rtol=1e-5, atol=1e-7)
    good = str(tasks / "good.tfrecord.gz")
    (batch,) = task_dataset(good, model.encoder, 32, support_fraction=1.0, with_keys=True)
    # The last row of each task is the query there; here all rows are adapted on.
    support = {
        part: _joined(batch["support"][part], batch["query"][part]) for part in ("label", "weight")
    }
    support["features"] = {
        name: _joined(value, batch["query"]["features"][name])
        for name, value in batch["support"]["features"].items()
    }
    age = batch["support"]["age"] + tf.cast(batch["support"]["weight"] > 0, tf.float32)
    support["age"] = _joined(age, tf.zeros_like(batch["query"]["label"]))
    adapted = model.adapt_tasks(support, 2)
    keys = [key.decode() for key in batch["task_key"].numpy()]
    actual = np.array([found[key]["variance"] for key in keys])
    np.testing.assert_allclose(actual, adapted.variance, rtol=1e-4)
    vectors = np.array([found[key]["embedding"] for key in keys])
    np.testing.assert_allclose(vectors, adapted.weights[0], rtol=1e-4, atol=1e-5)
    prior = np.array(Manifest.read(export / "adapter" / "1").prior_variance)
    assert (actual < prior).all()
    known = actual[:, -1]
    assert known[keys.index("u19")] < known[keys.index("u0")], "more rows, less variance"
    variances, offsets = (open_store(f"lmdb:{tmp_path}/{n}") for n in ("variances", "store"))
    matrix, present = variances.get_many(keys, 1)
    assert present.all()
    np.testing.assert_allclose(matrix, actual, rtol=1e-6)
    assert variances.current(1).identifier == offsets.current(1).identifier


def _joined(first, second):
    return np.concatenate([first.numpy(), second.numpy()], 1)


def test_an_incremental_run_keeps_variances_and_needs_them(model, tasks, tmp_path, capsys):
    _, export = model
    first, plain = tmp_path / "first", tmp_path / "plain"
    assert _embed(tasks, export, first, "--with-variance") == 0
    assert _embed(tasks, export, plain) == 0
    again = tmp_path / "again"
    assert _embed(tasks, export, again, "--with-variance", f"--previous={first}") == 0
    assert json.loads((again / "report.json").read_text())["carried"] == 20
    assert all(_rows(again)[key]["variance"] == r["variance"] for key, r in _rows(first).items())
    assert _embed(tasks, export, tmp_path / "less", f"--previous={first}") == 0
    assert all("variance" not in row for row in _rows(tmp_path / "less").values())
    capsys.readouterr()
    assert _embed(tasks, export, tmp_path / "no", "--with-variance", f"--previous={plain}") == 2
    assert "holds no variances to keep: leave out --previous" in capsys.readouterr().err
    store = f"lmdb:{tmp_path}/v"
    flags = ["--publish-only", f"--store=lmdb:{tmp_path}/s", f"--variance-store={store}"]
    assert _embed(tasks, export, plain, *flags) == 2
    assert "holds no variances for --variance-store" in capsys.readouterr().err
    assert _embed(tasks, export, plain, f"--store={store}", f"--variance-store={store}") == 2
    assert "must not be the store of --store" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"adaptation": "gradient"}, {"prior": "encoder", "inner_steps": 0}]
)
def test_a_model_without_a_posterior_is_refused(options, tasks, tmp_path, capsys):
    _export(tmp_path / "export", **options)
    assert _embed(tasks, tmp_path / "export", tmp_path / "out", "--with-variance") == 2
    assert "model version 1 has no posterior variances" in capsys.readouterr().err
