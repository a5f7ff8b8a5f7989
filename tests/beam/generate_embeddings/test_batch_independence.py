"""The tasks beside it change a task's embedding by rounding only. With a real exported adapter.

Kernels choose how they sum by shape and instruction set, so equal bits are no promise that can be
kept on every processor.
"""

import dataclasses
import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys import toy_schema, toy_statistics

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.job import generate
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.generate_embeddings.record_batches import batches_by_width
from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.record_format import LABEL, TIMESTAMP
from tfrec_limaml.tasks.task_encoder import TaskEncoder
from tfrec_limaml.training.model_options import ModelOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised_graphs")]

SCHEMA = toy_schema(
    Feature(name="m", role="meta", width=21, normalise="log"),
    Feature(name="word", role="meta", dtype="string", encoding="hash", buckets=50),
    Feature(name="o", width=3, normalise="standard"),
)
STATISTICS = toy_statistics(
    {
        name: {"mean": [0.1] * width, "variance": [1.7] * width}
        for name, width in (("m", 21), ("o", 3))
    },
    label_mean=0.4,
)
MODEL = ModelOptions.paper().replace(
    meta_units=(45,), embedding_dim=6, global_units=(24,), fine_tune_steps=3
)


ENCODER = ModelOptions(embedding_dim=6, prior="encoder", global_units=(24, 12))


@pytest.fixture(scope="module", params=[MODEL, ENCODER], ids=["gradient", "encoder"])
def adapter(request, tmp_path_factory):
    import keras

    from tfrec_limaml import export_for_serving
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
    from tfrec_limaml.training.recipes import build_model

    keras.utils.set_random_seed(1)
    encoder = FeatureEncoder(SCHEMA, STATISTICS)
    model = build_model("limaml", encoder, request.param)
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
    return [
        encoder.encode(f"u{n}", end - count, end)
        for n, (count, end) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True))
    ]


#: Largest change of a vector by rounding, relative to its length or the mean length, whichever is
#: larger: the numbers that a short vector is the difference of are no smaller. Losses and scores
#: change by no more in absolute terms.
BOUND = 1e-6


@pytest.fixture(scope="module")
def packed(adapter):
    """The adapter as the job loads it."""
    from limaml_beam.generate_embeddings.adapter import load_packed

    return load_packed(adapter, ["serve"], embedding_dim=MODEL.embedding_dim, intra_op_threads=0)


def adapt(packed, records, batch_size=512):
    """Outputs by task key."""
    rows = {}
    for batch in batches_by_width(records, batch_size):
        outputs = packed.adapt(batch)
        for n, key in enumerate(outputs["task_key"][:, 0]):
            rows[key] = {name: value[n] for name, value in outputs.items() if name != "task_key"}
    return rows


def change(found, expected):
    """How far two results of one task are apart: of the vectors relative to their length, of the
    losses as they are.
    """
    assert found["sample_count"] == expected["sample_count"]
    assert found["last_timestamp"] == expected["last_timestamp"]
    vector = np.linalg.norm(found["meta_embedding"] - expected["meta_embedding"]) / np.linalg.norm(
        expected["meta_embedding"]
    )
    losses = [abs(found[name] - expected[name]).item() for name in ("loss_before", "loss_after")]
    return max(vector.item(), *losses)


def score(adapter, vectors):
    """Probabilities of one row under each vector, by the ranker that was exported with the
    adapter.
    """
    import tensorflow as tf

    ranker = tf.saved_model.load(adapter.replace("/adapter/", "/ranker/")).signatures[
        "serving_default"
    ]
    number = len(vectors)
    columns = {
        "m": np.ones((number, 21), np.float32),
        "word": ["w1"] * number,
        "o": np.ones((number, 3), np.float32),
    }
    inputs = {**columns, "meta_embedding": vectors, "has_meta_embedding": [True] * number}
    return ranker(**{name: tf.constant(value) for name, value in inputs.items()})[
        "probability"
    ].numpy()


@pytest.fixture(scope="module")
def whole(packed):
    """Records, and what they give all together."""
    records = make_records(3000, seed=1)
    return records, adapt(packed, records)


@pytest.mark.parametrize(
    ("number", "batch_size"), [(1, 512), (2, 512), (61, 512), (900, 512), (3000, 100), (3000, 33)]
)
def test_any_selection_in_any_order_gives_every_task_the_same_vector_within_rounding(
    packed, whole, number, batch_size
):
    records, alone = whole
    chosen = np.random.default_rng(number).permutation(len(records))[:number]
    again = adapt(packed, [records[n] for n in chosen], batch_size)
    assert len(again) == number
    assert max(change(row, alone[key]) for key, row in again.items()) < BOUND


def test_a_task_beside_a_refused_one_gets_the_same_vector_within_rounding(packed):
    records = make_records(200, seed=2)
    alone = adapt(packed, records)
    damaged = [record if n % 40 else record[:-9] for n, record in enumerate(records)]
    beside = adapt(packed, damaged)
    good = [f"u{n}".encode() for n in range(200) if n % 40]
    assert max(change(beside[key], alone[key]) for key in good) < BOUND


def test_an_incremental_run_carries_vectors_over_as_they_are_and_equals_a_full_one_within_rounding(
    adapter, tmp_path
):
    def write(records, name):
        folder = tmp_path / name
        (folder / "user").mkdir(parents=True)
        SCHEMA.save(folder / "schema.yaml")
        for n in range(2):
            with gzip.open(
                folder / "user" / f"recent-{n:05d}-of-00002.tfrecord.gz", "wb", compresslevel=1
            ) as file:
                file.writelines(map(frame_record, records[n::2]))
        return str(folder)

    yesterday = make_records(300, seed=3)
    today = [
        new if n % 3 == 0 else old
        for n, (old, new) in enumerate(zip(yesterday, make_records(300, seed=4), strict=True))
    ]
    first = EmbeddingJob(
        tasks=write(yesterday, "yesterday"),
        adapter=adapter,
        output=f"{tmp_path}/first",
        generation="g1",
    )
    full = dataclasses.replace(
        first, tasks=write(today[::-1], "today"), output=f"{tmp_path}/full", generation="g2"
    )
    increment = dataclasses.replace(full, output=f"{tmp_path}/increment", previous=first.output)
    generate(first)
    generate(full)
    report = generate(increment)
    assert (report["embedded"], report["carried"]) == (100, 200)

    def rows(job):
        found = [
            row
            for file in tables.embedding_files(job.output)
            for row in pq.read_table(file).to_pylist()
        ]
        return {row["task_key"]: row for row in found}

    def vectors(by_key):
        return np.array([by_key[key]["embedding"] for key in sorted(by_key)], np.float32)

    earlier, found, expected = rows(first), rows(increment), rows(full)
    assert found.keys() == expected.keys()
    exact = (
        "task_definition",
        "event_timestamp",
        "sample_count",
        "model_version",
        "generation",
        "record_digest",
    )
    assert all(found[key][name] == expected[key][name] for key in found for name in exact)
    same = [key for key in found if found[key]["record_digest"] == earlier[key]["record_digest"]]
    assert len(same) == 200
    carried, stored = ([rows_of[key]["embedding"] for key in same] for rows_of in (found, earlier))
    assert carried == stored, (
        "vectors that are carried over are those of the earlier run, byte for byte"
    )
    lengths = np.linalg.norm(vectors(expected), axis=1)
    lengths = np.maximum(lengths, lengths.mean())
    assert np.max(np.linalg.norm(vectors(found) - vectors(expected), axis=1) / lengths) < BOUND
    scores = [score(adapter, vectors(by_key)) for by_key in (found, expected)]
    assert np.ptp(scores[0]) > 0.05, "the scores depend on the vectors"
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)
