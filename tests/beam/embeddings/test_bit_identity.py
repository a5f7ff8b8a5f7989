"""A task's embedding does not depend, by a single bit, on the tasks that were adapted with it. With a real exported adapter."""

import dataclasses
import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest

from limaml_beam import embedding_tables as tables
from limaml_beam.generate_embeddings import EmbeddingJob, generate
from limaml_beam.record_batches import batches_by_width
from limaml_beam.sources import frame_record
from tfrec_limaml.records import LABEL, TIMESTAMP, TaskEncoder
from tfrec_limaml.schema import Feature, Label, Schema
from tfrec_limaml.statistics import Statistics

SCHEMA = Schema(
    name="bits",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user_id",)},
    features=(
        Feature(name="m", role="meta", width=21, normalise="log"),
        Feature(name="word", role="meta", dtype="string", encoding="hash", buckets=50),
        Feature(name="o", width=3, normalise="standard"),
    ),
)
STATISTICS = Statistics(
    rows=10,
    label_mean=0.4,
    window={"start": 0, "end": 1},
    features={name: {"mean": [0.1] * width, "variance": [1.7] * width} for name, width in (("m", 21), ("o", 3))},
)
MODEL = {
    "meta_units": (45,),
    "embedding_dim": 6,
    "global_units": (24,),
    "dropout": 0.0,
    "inner_steps": 2,
    "inner_learning_rate": 0.1,
    "fine_tune_steps": 3,
    "first_order": True,
    "unadapted_loss_weight": 0.5,
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    import keras

    from tfrec_limaml import export_for_serving
    from tfrec_limaml.preprocessing import FeatureEncoder
    from tfrec_limaml.recipes import build_model

    keras.utils.set_random_seed(1)
    encoder = FeatureEncoder(SCHEMA, STATISTICS)
    model = build_model("limaml", encoder, MODEL)
    model.build(encoder.output_shapes)
    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder)
    return str(folder / "adapter" / "1")


def make_records(tasks, seed):
    """Tasks of 1 to 30 samples, and one of 300."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 31, tasks)
    counts[0] = 300
    ends = np.cumsum(counts)
    rows = int(ends[-1])
    encoder = TaskEncoder(
        SCHEMA,
        {
            "m": 3 * random.standard_normal((rows, 21), np.float32),
            "word": [f"w{n}" for n in random.integers(0, 99, rows)],
            "o": random.standard_normal((rows, 3), np.float32),
            LABEL: (random.random(rows) < 0.4).astype(np.float32),
            TIMESTAMP: np.arange(rows) + 1_650_000_000_000,
        },
    )
    return [encoder.encode(f"u{n}", end - count, end) for n, (count, end) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True))]


def adapt(adapter, records, batch_size=512):
    """Every output's bytes by task key."""
    from limaml_beam.adapter import load_packed

    packed = load_packed(str(adapter), ["serve"], embedding_dim=MODEL["embedding_dim"], intra_op_threads=0)
    rows = {}
    for batch in batches_by_width(records, batch_size):
        outputs = packed.adapt(batch)
        for n, key in enumerate(outputs["task_key"][:, 0]):
            rows[key] = {name: value[n].tobytes() for name, value in outputs.items() if name != "task_key"}
    return rows


@pytest.mark.parametrize(("number", "batch_size"), [(1, 512), (2, 512), (61, 512), (900, 512), (3000, 100), (3000, 33)])
def test_any_selection_in_any_order_gives_every_task_the_same_bits(adapter, number, batch_size):
    records = make_records(3000, seed=1)
    alone = adapt(adapter, records)
    chosen = np.random.default_rng(number).permutation(len(records))[:number]
    again = adapt(adapter, [records[n] for n in chosen], batch_size)
    assert len(again) == number
    assert [key for key, row in again.items() if row != alone[key]] == []


def test_a_task_beside_a_refused_one_gets_the_same_bits(adapter):
    records = make_records(200, seed=2)
    alone = adapt(adapter, records)
    damaged = [record if n % 40 else record[:-9] for n, record in enumerate(records)]
    beside = adapt(adapter, damaged)
    good = [f"u{n}".encode() for n in range(200) if n % 40]
    assert [key for key in good if beside[key] != alone[key]] == []


def test_an_incremental_run_is_bit_by_bit_a_full_one(adapter, tmp_path):
    def write(records, name):
        folder = tmp_path / name
        (folder / "user").mkdir(parents=True)
        SCHEMA.save(folder / "schema.yaml")
        for n in range(2):
            with gzip.open(folder / "user" / f"recent-{n:05d}-of-00002.tfrecord.gz", "wb", compresslevel=1) as file:
                file.writelines(map(frame_record, records[n::2]))
        return str(folder)

    yesterday = make_records(1000, seed=3)
    today = [new if n % 3 == 0 else old for n, (old, new) in enumerate(zip(yesterday, make_records(1000, seed=4), strict=True))]
    first = EmbeddingJob(tasks=write(yesterday, "yesterday"), adapter=adapter, output=f"{tmp_path}/first", generation="g1")
    full = dataclasses.replace(first, tasks=write(today[::-1], "today"), output=f"{tmp_path}/full", generation="g2")
    increment = dataclasses.replace(full, output=f"{tmp_path}/increment", previous=first.output)
    generate(first)
    generate(full)
    report = generate(increment)
    assert (report["embedded"], report["carried"]) == (334, 666)

    def rows(job):
        found = [row for file in tables.embedding_files(job.output) for row in pq.read_table(file).to_pylist()]
        return sorted(found, key=lambda row: row["task_key"])

    assert rows(increment) == rows(full)
