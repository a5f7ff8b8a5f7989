"""The embedding job for a model that adapts to two task definitions at once.

With a real exported adapter.
"""

import dataclasses
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import toy_schema, toy_statistics

from limaml_beam.generate_embeddings import tables, transforms
from limaml_beam.generate_embeddings.job import generate
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.store import open_store
from tfrec_limaml.tasks.folder import SCHEMA_FILE
from tfrec_limaml.tasks.record_format import encode_task

pytestmark = pytest.mark.slow

DIM = 4
SCHEMA = toy_schema(
    Feature(name="x", role="meta", width=3, normalise="none"),
    Feature(name="tab", dtype="string", encoding="hash", buckets=5),
    tasks={"user": ("user_id",), "user_tab": ("user_id", "tab")},
)
DAY_MS = 86_400_000


@pytest.fixture(scope="module", params=["gradient", "gauss-newton"])
def model(request):
    import keras

    from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
    from tfrec_limaml.blocks import NestedMetaBlocks, OffsetMetaBlock
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    keras.utils.set_random_seed(1)
    encoder = FeatureEncoder(SCHEMA, toy_statistics(), nested=("user_tab",))
    kind = MLPMetaBlock if request.param == "gradient" else OffsetMetaBlock
    block = NestedMetaBlocks({name: kind((5,), DIM, "tanh") for name in SCHEMA.tasks})
    return LiMAML(
        block, MLPGlobalBlock((6,)), encoder=encoder, inner_learning_rate=0.5, fine_tune_steps=2
    )


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    from tfrec_limaml import export_for_serving

    folder = tmp_path_factory.mktemp("export")
    export_for_serving(model, folder)
    return folder


def make_rows(tabs, seed=0, start=1_650_000_000_000):
    draw = np.random.default_rng(seed)
    return [
        {
            "x": draw.normal(size=3).tolist(),
            "tab": tab,
            "label": float(draw.integers(2)),
            "timestamp": start + n * DAY_MS,
        }
        for n, tab in enumerate(tabs)
    ]


MEMBERS = {
    f"u{n}": make_rows([["home", "a|b", "feed"][(n + i * i) % 3] for i in range(1 + n % 7)], seed=n)
    for n in range(40)
}


def write_tasks(folder, members, junk=()):
    (folder / "user").mkdir(parents=True)
    SCHEMA.save(folder / SCHEMA_FILE)
    with gzip.open(folder / "user" / "recent-00000-of-00001.tfrecord.gz", "wb") as file:
        file.writelines(
            frame_record(record)
            for record in (
                *(encode_task(SCHEMA, key, rows) for key, rows in members.items()),
                *junk,
            )
        )
    return str(folder)


def read(folder):
    rows = pa.concat_tables(
        [pq.read_table(file) for file in tables.embedding_files(folder)]
    ).to_pylist()
    assert len({row["task_key"] for row in rows}) == len(rows)
    return {row["task_key"]: row for row in rows}


@pytest.fixture
def job(export, tmp_path):
    return EmbeddingJob(
        tasks=write_tasks(tmp_path / "tasks", MEMBERS),
        adapter=f"{export}/adapter/1",
        output=f"{tmp_path}/out",
        generation="g1",
    )


def test_every_part_of_a_task_gets_a_row_beside_the_task_s_own(job, model):
    import tensorflow as tf

    report = generate(job)
    rows = read(job.output)
    parts = {
        f"{key}|{tab.replace('|', '%7C')}": (key, tab)
        for key, own in MEMBERS.items()
        for tab in {row["tab"] for row in own}
    }
    assert (report["tasks_read"], report["embedded"], report["nested"]) == (
        len(MEMBERS),
        len(MEMBERS),
        len(parts),
    )
    assert rows.keys() == MEMBERS.keys() | parts.keys()
    for part, (key, tab) in parts.items():
        own = [row for row in MEMBERS[key] if row["tab"] == tab]
        found = rows[part]
        assert (found["task_definition"], found["sample_count"], found["loss_before"]) == (
            "user_tab",
            len(own),
            None,
        )
        assert found["event_timestamp"].timestamp() * 1000 == own[-1]["timestamp"]
        assert found["record_digest"] == rows[key]["record_digest"]
    assert rows["u6"]["task_definition"] == "user"
    columns = {name: tf.constant([row[name] for row in MEMBERS["u6"]]) for name in ("x", "tab")}
    support = {"features": {n: v[None] for n, v in model.encoder(columns).items()}}
    support |= {
        "label": tf.constant([[row["label"] for row in MEMBERS["u6"]]]),
        "weight": tf.ones([1, len(MEMBERS["u6"])]),
    }
    expected = model.task_embeddings(support)
    np.testing.assert_allclose(rows["u6"]["embedding"], expected.embedding[0], atol=1e-6)
    tabs = list(dict.fromkeys(row["tab"] for row in MEMBERS["u6"]))
    for tab, embedding in zip(tabs, expected.nested[0].embedding, strict=False):
        np.testing.assert_allclose(
            rows[f"u6|{tab.replace('|', '%7C')}"]["embedding"], embedding, atol=1e-6
        )


def test_refused_and_infinite_tasks_cost_neither_their_neighbours_nor_the_neighbours_parts(
    job, tmp_path
):
    expected = read(generate(job) and job.output)
    spoilt = {**MEMBERS, "nan": [{**row, "x": [float("nan")] * 3} for row in MEMBERS["u3"]]}
    tasks = write_tasks(tmp_path / "spoilt", spoilt, junk=[b"junk", b"more junk"])
    bad = dataclasses.replace(
        job, tasks=tasks, output=f"{tmp_path}/spoilt_out", max_bad_fraction=0.5
    )
    report = generate(bad)
    assert report["dead_letters"] == {"not_finite": 1, "undecodable": 2}
    found = read(bad.output)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_allclose(found[key]["embedding"], row["embedding"], atol=1e-6)


def test_an_incremental_run_carries_parts_with_their_task_and_drops_those_that_left_the_window(
    job, tmp_path
):
    generate(job)
    changed = {key: rows for key, rows in MEMBERS.items() if key != "u39"} | {
        "u5": make_rows(["feed"] * 9, seed=99)
    }
    tasks = write_tasks(tmp_path / "changed", changed)
    full = dataclasses.replace(job, tasks=tasks, output=f"{tmp_path}/full", generation="g2")
    part = dataclasses.replace(full, output=f"{tmp_path}/part", previous=job.output)
    generate(full)
    report = generate(part)
    assert (report["embedded"], report["carried"], report["aged_out"]) == (1, len(MEMBERS) - 2, 1)
    assert report["nested"] == sum(len({row["tab"] for row in rows}) for rows in changed.values())
    found, expected = read(part.output), read(full.output)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            numeric = name in ("embedding", "loss_before", "loss_after")
            if numeric and value is not None:  # parts of a task have no loss of their own
                np.testing.assert_allclose(found[key][name], value, atol=1e-6, err_msg=key)
            else:
                assert found[key][name] == value


def test_the_store_holds_what_the_ranker_needs_for_both_definitions(job, export, tmp_path):
    import tensorflow as tf

    generate(job)
    store = open_store(f"lmdb:{tmp_path}/store")
    publish(job.output, store)
    keys = ["u6", "u6|home", "u6|nowhere"]
    embeddings, found = store.get_many(keys, 1)
    store.close()
    assert found.tolist() == [True, True, False]
    rank = tf.saved_model.load(f"{export}/ranker/1").signatures["rank"]
    inputs = {"x": tf.zeros([1, 3]), "tab": tf.constant(["home", "nowhere"])}
    inputs |= {
        "meta_embedding": tf.constant(embeddings[:1]),
        "has_meta_embedding": tf.constant([True]),
    }
    inputs |= {
        "meta_embedding_user_tab": tf.constant(embeddings[1:]),
        "has_meta_embedding_user_tab": tf.constant(found[1:]),
    }
    both = rank(**inputs)["logit"]
    alone = rank(**{**inputs, "has_meta_embedding_user_tab": tf.constant([False, False])})["logit"]
    assert abs(both[0] - alone[0]) > 1e-6
    np.testing.assert_allclose(both[1], alone[1], rtol=1e-6)


def test_a_task_with_a_part_that_is_not_finite_is_a_dead_letter_with_all_its_parts(
    export, monkeypatch
):
    one, two = np.zeros((2, 1)), np.zeros((2, 2), np.int64)
    outputs = {
        "task_key": np.array([[b"a"], [b"b"]], object),
        "meta_embedding": np.zeros((2, DIM), np.float32),
        "sample_count": one.astype(np.int64),
        "last_timestamp": one.astype(np.int64),
        "loss_before": one,
        "loss_after": one,
        "nested_definition": two,
        "nested_task_key": np.array([[b"a|1", b"a|2"], [b"b|1", b"b|2"]], object),
        "nested_meta_embedding": np.zeros((2, 2, DIM), np.float32),
        "nested_sample_count": two,
        "nested_last_timestamp": two,
    }
    outputs["nested_meta_embedding"][0, 1, 2] = np.inf
    monkeypatch.setattr(transforms, "read_log", lambda log: ([b"first", b"second"], outputs))
    found = list(transforms.ToTables(Manifest.read(export / "adapter" / "1"), "g").process(None))
    rows = [
        key
        for table in found
        if isinstance(table, pa.Table)
        for key in table["task_key"].to_pylist()
    ]
    assert rows == ["b", "b|1", "b|2"]
    (dead,) = [output.value for output in found if getattr(output, "tag", None) == "dead_letters"]
    assert dead["record"].to_pylist() == [b"first"]
