"""A small adapter with a closed form, an export folder around it, and folders of task records."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from limaml_beam.sources import frame_record
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.records import SCHEMA_FILE, encode_task
from tfrec_limaml.schema import Feature, Label, Schema

DIM = 3


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema(
        name="toy",
        label=Label(name="click"),
        timestamp="time",
        tasks={"user": ("user_id",)},
        features=(Feature(name="x", role="meta"), Feature(name="note", dtype="string", encoding="vocabulary")),
    )


def save_closed_form_adapter(directory: Path) -> None:
    """Embedding = [sum of labels, sum of x, number of samples]; x = NaN makes it not finite."""
    import tensorflow as tf

    class Adapter(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="task_records")])
        def adapt(self, task_records: tf.Tensor) -> dict[str, tf.Tensor]:
            context, lists, _ = tf.io.parse_sequence_example(
                task_records,
                context_features={"task_key": tf.io.FixedLenFeature([], tf.string), "sample_count": tf.io.FixedLenFeature([], tf.int64)},
                sequence_features={name: tf.io.RaggedFeature(tf.float32) for name in ("x", "label")}
                | {"timestamp": tf.io.RaggedFeature(tf.int64)},
            )
            labels, x = (tf.reduce_sum(lists[name], axis=[1, 2]) for name in ("label", "x"))
            count = tf.cast(context["sample_count"], tf.float32)
            return {
                "task_key": context["task_key"][:, None],
                "meta_embedding": tf.stack([labels, x, count], axis=1),
                "sample_count": context["sample_count"][:, None],
                "last_timestamp": tf.reduce_max(lists["timestamp"], axis=[1, 2])[:, None],
                "loss_before": tf.ones_like(count)[:, None],
                "loss_after": tf.fill(tf.shape(count[:, None]), 0.5),
            }

    module = Adapter()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.adapt})


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    folder = tmp_path_factory.mktemp("export")
    save_closed_form_adapter(folder / "adapter" / "7")
    manifest = Manifest(
        model_version=7,
        schema=schema.to_dict(),
        schema_fingerprint=schema.fingerprint(),
        task_definition="user",
        embedding_dim=DIM,
        inner_loop={"fine_tune_steps": 1},
    )
    manifest.write(folder / "adapter" / "7")
    return folder


Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """``make_rows([1.0, 2.0])``: one interaction per x, label 1 where x > 0, a day apart."""

    def make(xs: Sequence[float], start: int = 1_650_000_000_000) -> Rows:
        return [{"x": x, "note": "n" * n, "label": float(x > 0), "timestamp": start + n * 86_400_000} for n, x in enumerate(xs)]

    return make


@pytest.fixture
def write_tasks(tmp_path: Path, schema: Schema) -> Callable[..., Path]:
    """Writes ``TASKS/user/recent-*.tfrecord.gz`` from encoded records, dealt over some files."""

    def write(records: Sequence[bytes], name: str = "tasks", files: int = 2) -> Path:
        folder = tmp_path / name
        (folder / "user").mkdir(parents=True)
        schema.save(folder / SCHEMA_FILE)
        for i in range(files):
            with gzip.open(folder / "user" / f"recent-{i:05d}-of-{files:05d}.tfrecord.gz", "wb") as file:
                file.writelines(map(frame_record, records[i::files]))
        return folder

    return write


@pytest.fixture
def encode(schema: Schema, make_rows: Callable[..., Rows]) -> Callable[..., bytes]:
    """``encode("u1", [1.0, -2.0])``: one task record."""

    def one(key: str, xs: Sequence[float], start: int = 1_650_000_000_000) -> bytes:
        return encode_task(schema, key, make_rows(xs, start))

    return one
