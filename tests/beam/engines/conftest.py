"""A small real model, exported, and tasks for it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limaml_beam.generate_embeddings import EmbeddingJob
from tfrec_limaml.records import LABEL, SCHEMA_FILE, TIMESTAMP, TaskEncoder
from tfrec_limaml.schema import Feature, Label, Schema

TASKS, FILES = 300, 4


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema(
        name="engines",
        label=Label(name="click"),
        timestamp="time",
        tasks={"user": ("user_id",)},
        features=(Feature(name="m", role="meta", width=4, normalise="none"), Feature(name="o", width=3, normalise="none")),
    )


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    """``adapter/<version>`` of an untrained model with two inner steps."""
    from tfrec_limaml import export_for_serving
    from tfrec_limaml.preprocessing import FeatureEncoder
    from tfrec_limaml.recipes import build_model
    from tfrec_limaml.statistics import Statistics

    encoder = FeatureEncoder(schema, Statistics(rows=1, label_mean=0.5, window={"start": 0, "end": 1}, features={}))
    options = {
        "meta_units": (8,),
        "embedding_dim": 4,
        "global_units": (8,),
        "dropout": 0.0,
        "inner_steps": 2,
        "inner_learning_rate": 0.3,
        "fine_tune_steps": 2,
        "first_order": True,
        "unadapted_loss_weight": 0.5,
    }
    model = build_model("limaml", encoder, options)
    model.build(encoder.output_shapes)
    folder = tmp_path_factory.mktemp("export")
    return folder / "adapter" / str(export_for_serving(model, folder).model_version)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    """Tasks of 1 to 8 samples, as `limaml prepare` lays them down."""
    import tensorflow as tf

    random = np.random.default_rng(3)
    counts = random.integers(1, 9, TASKS)
    ends = np.cumsum(counts)
    rows = int(ends[-1])
    columns = {
        "m": random.standard_normal((rows, 4), np.float32),
        "o": random.standard_normal((rows, 3), np.float32),
        LABEL: (random.random(rows) < 0.4).astype(np.float32),
        TIMESTAMP: np.arange(rows) + 1_650_000_000_000,
    }
    encoder = TaskEncoder(schema, columns)
    records = [encoder.encode(f"member-{n}", int(end - count), int(end)) for n, (end, count) in enumerate(zip(ends, counts, strict=True))]
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "user").mkdir()
    schema.save(folder / SCHEMA_FILE)
    for n in range(FILES):
        path = folder / "user" / f"recent-{n:05d}-of-{FILES:05d}.tfrecord.gz"
        with tf.io.TFRecordWriter(str(path), options="GZIP") as file:
            for record in records[n::FILES]:
                file.write(record)
    return folder


@pytest.fixture
def job(tmp_path: Path, tasks: Path, adapter: Path) -> EmbeddingJob:
    return EmbeddingJob(tasks=str(tasks), adapter=str(adapter), output=str(tmp_path / "direct"), generation="g1", intra_op_threads=1)


@pytest.fixture
def load_deployed(checkout: Path) -> Callable[[str], Any]:
    """Loads a script of the deployment folder as a module."""

    def module(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(Path(name).stem, checkout / "beam" / name)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return module
