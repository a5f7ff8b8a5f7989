"""What is computed for a task has the same bits wherever the task stands in its batch, for layers of any width."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.batch_shapes import TASK_MULTIPLE
from tfrec_limaml.export import export_for_serving
from tfrec_limaml.pooling import pool, sum_over_samples
from tfrec_limaml.preprocessing import FeatureEncoder
from tfrec_limaml.recipes import build_model
from tfrec_limaml.records import LABEL, TIMESTAMP, TaskEncoder
from tfrec_limaml.schema import Feature, Label, Schema
from tfrec_limaml.statistics import Statistics

TASKS = 2 * TASK_MULTIPLE
SCHEMA = Schema(
    name="bits",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user",)},
    features=(
        Feature(name="m", role="meta", width=5, normalise="none"),
        Feature(name="user", role="meta", dtype="string", encoding="hash", buckets=50, embedding_width=4),
        Feature(name="o", width=3, normalise="none"),
    ),
)


def _records(samples):
    """Tasks with the same number of samples each."""
    random = np.random.default_rng(samples)
    rows = TASKS * samples
    columns = {
        "m": random.standard_normal((rows, 5), np.float32),
        "user": [f"u{row // samples}" for row in range(rows)],
        "o": random.standard_normal((rows, 3), np.float32),
        LABEL: (random.random(rows) < 0.4).astype(np.float32),
        TIMESTAMP: np.arange(rows),
    }
    encoder = TaskEncoder(SCHEMA, columns)
    return [encoder.encode(f"u{task}", task * samples, (task + 1) * samples) for task in range(TASKS)]


@pytest.mark.parametrize(("width", "meta_block"), [(5, "mlp"), (12, "mlp"), (30, "mlp"), (12, "id"), (12, "features+id")])
def test_an_exported_adapter_gives_a_task_the_same_bits_at_every_place(tmp_path, width, meta_block):
    keras.utils.set_random_seed(1)
    encoder = FeatureEncoder(SCHEMA, Statistics(rows=1, label_mean=0.4, window={"start": 0, "end": 1}, features={}))
    options = {
        "meta_block": meta_block,
        "meta_units": (width,),
        "embedding_dim": width,
        "global_units": (width,),
        "dropout": 0.0,
        "inner_steps": 2,
        "inner_learning_rate": 0.1,
        "fine_tune_steps": 3,
        "first_order": True,
        "unadapted_loss_weight": 0.5,
    }
    model = build_model("limaml", encoder, options)
    model.build(encoder.output_shapes)
    export_for_serving(model, tmp_path)
    adapt = tf.saved_model.load(str(tmp_path / "adapter" / "1")).signatures["serving_default"]
    differing = []
    for samples in range(1, 41):
        records = _records(samples)
        first, turned = (adapt(task_records=tf.constant(order)) for order in (records, records[5:] + records[:5]))
        for name, value in first.items():
            if not np.array_equal(value.numpy(), np.roll(turned[name].numpy(), 5, 0)):
                differing.append((samples, name))
    assert differing == []


@pytest.mark.parametrize("how", ["latest", "mean", "max", "cosine"])
@pytest.mark.parametrize("width", [5, 12, 30])
def test_pooling_gives_a_task_the_same_bits_at_every_place(how, width):
    random = np.random.default_rng(0)
    for samples in range(1, 41):
        embeddings = random.standard_normal((TASKS, samples, width), np.float32)
        weight = (random.random((TASKS, samples)) < 0.7).astype(np.float32)
        first, turned = (pool(tf.constant(np.roll(embeddings, n, 0)), tf.constant(np.roll(weight, n, 0)), how) for n in (0, 5))
        np.testing.assert_array_equal(np.roll(first, 5, 0), turned, err_msg=f"{samples} samples")


def test_sums_over_samples_are_sums():
    values = np.random.default_rng(0).integers(-9, 9, (3, 7, 5)).astype("f")
    np.testing.assert_array_equal(sum_over_samples(tf.constant(values)), values.sum(1))
