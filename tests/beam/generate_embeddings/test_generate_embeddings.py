"""The embedding job against an adapter with a closed form."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.job import generate
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.generate_embeddings.publish import publish
from tfrec_limaml.errors import LimamlError, StoreError, VersionMismatchError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import open_store

DAY_MS = 86_400_000


@pytest.fixture
def job(tmp_path, export):
    return EmbeddingJob(
        tasks=f"{tmp_path}/tasks",
        adapter=f"{export}/adapter/7",
        output=f"{tmp_path}/out",
        generation="g1",
    )


def read(folder):
    rows = [
        row for file in tables.embedding_files(folder) for row in pq.read_table(file).to_pylist()
    ]
    return {row["task_key"]: row for row in rows}


def read_dead(folder):
    return [
        row
        for file in (Path(folder) / "dead_letters").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]


def test_every_task_is_adapted_once_and_described(job, write_tasks, encode):
    write_tasks([encode(f"u{n}", [n] * (1 + n % 4)) for n in range(100)])
    report = generate(job)
    rows = read(job.output)
    assert len(rows) == report["rows"] == report["embedded"] == report["tasks_read"] == 100
    row = rows["u7"]
    assert row["embedding"] == [4.0, 28.0, 4.0]
    assert row["event_timestamp"].timestamp() * 1000 == 1_650_000_000_000 + 3 * DAY_MS
    assert (row["sample_count"], row["loss_before"], row["loss_after"]) == (4, 1.0, 0.5)
    assert (row["model_version"], row["generation"]) == (7, "g1")
    assert json.loads((Path(job.output) / "report.json").read_text()) == report


def test_the_parquet_schema_is_the_declared_one(job, write_tasks, encode):
    write_tasks([encode("u", [1.0])])
    generate(job)
    (file,) = tables.embedding_files(job.output)
    assert pq.read_schema(file).remove_metadata().equals(tables.EMBEDDINGS_SCHEMA)


def test_bad_records_become_dead_letters_and_do_not_cost_their_batch(job, write_tasks, encode):
    write_tasks(
        [*(encode(f"u{n}", [n]) for n in range(60)), b"junk", encode("nan", [float("nan")])],
        files=1,
    )
    report = generate(dataclasses.replace(job, max_bad_fraction=0.5))
    assert report["dead_letters"] == {"not_finite": 1, "undecodable": 1}
    assert report["embedded"] == 60
    dead = {row["reason"]: row for row in read_dead(job.output)}
    assert dead["undecodable"]["record"] == b"junk"
    assert dead["not_finite"]["detail"] == "nan"


@pytest.mark.parametrize("key", ["", "k" * 512, "ü" * 256])
def test_a_task_whose_key_no_store_holds_is_a_dead_letter(job, write_tasks, encode, tmp_path, key):
    write_tasks([encode("u", [1.0]), encode("k" * 511, [1.0]), encode(key, [1.0])], files=1)
    report = generate(dataclasses.replace(job, max_bad_fraction=0.5))
    assert report["dead_letters"] == {"unstorable_key": 1}
    assert [row["reason"] for row in read_dead(job.output)] == ["unstorable_key"]
    store = open_store(f"lmdb:{tmp_path}/store")
    publish(job.output, store)
    assert store.get_many(["u", "k" * 511], 7)[1].all()
    store.close()


def test_too_many_dead_letters_leave_nothing_behind(job, write_tasks, encode, tmp_path):
    write_tasks([encode("u", [1.0]), b"junk"])
    with pytest.raises(LimamlError, match="1 of 2 tasks are dead letters"):
        generate(dataclasses.replace(job, max_bad_fraction=0.4))
    assert not Path(job.output).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tasks"]


def test_a_truncated_file_fails_the_run(job, write_tasks, encode):
    folder = write_tasks([encode(f"u{n}", [n] * 50) for n in range(50)], files=1)
    (file,) = (folder / "user").iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(LimamlError, match="1 task-record file cannot be read to the end"):
        generate(job)


def test_an_adapter_of_another_schema_is_refused(job, write_tasks, encode, schema):
    folder = write_tasks([encode("u", [1.0])])
    schema.replace(features=schema.features[:1]).save(folder / "schema.yaml")
    with pytest.raises(VersionMismatchError, match="fingerprint"):
        generate(job)


def test_a_folder_without_records_is_explained(job, write_tasks):
    write_tasks([], files=0)
    with pytest.raises(LimamlError, match="limaml prepare"):
        generate(job)


def test_an_incremental_run_equals_a_full_one_and_adapts_only_what_changed(
    job, write_tasks, encode, tmp_path
):
    records = {f"u{n}": encode(f"u{n}", [n / 7] * (1 + n % 3)) for n in range(50)}
    write_tasks(list(records.values()))
    generate(job)
    records["u3"] = encode("u3", [9.0, 9.0])
    records["new"] = encode("new", [1.0])
    del records["u4"]
    today = write_tasks(list(records.values()), name="today")
    full = dataclasses.replace(job, tasks=str(today), output=f"{tmp_path}/full", generation="g2")
    increment = dataclasses.replace(full, output=f"{tmp_path}/increment", previous=job.output)
    generate(full)
    report = generate(increment)
    assert (report["embedded"], report["carried"], report["aged_out"]) == (2, 48, 1)
    assert read(increment.output) == read(full.output)


def test_tasks_outside_the_window_age_out_by_policy(job, write_tasks, encode, tmp_path):
    start = 1_650_000_000_000
    write_tasks(
        [
            encode("old", [1.0], start),
            encode("recent", [2.0], start + 5 * DAY_MS),
            encode("here", [3.0], start + 9 * DAY_MS),
        ]
    )
    generate(job)
    today = write_tasks([encode("here", [4.0], start + 9 * DAY_MS)], name="today")
    kept = dataclasses.replace(
        job,
        tasks=str(today),
        output=f"{tmp_path}/kept",
        generation="g2",
        previous=job.output,
        max_age_days=6,
    )
    report = generate(kept)
    assert (report["kept_outside_window"], report["aged_out"], report["embedded"]) == (1, 1, 1)
    rows = read(kept.output)
    assert rows["recent"]["embedding"] == [1.0, 2.0, 1.0]
    assert rows["here"]["embedding"] == [1.0, 4.0, 1.0]
    assert set(rows) == {"recent", "here"}


def test_rows_of_another_export_are_not_carried_over(job, write_tasks, encode, export, tmp_path):
    write_tasks([encode("u", [1.0])])
    generate(job)
    other = tmp_path / "export" / "adapter" / "7"
    shutil.copytree(job.adapter, other)
    dataclasses.replace(Manifest.read(job.adapter), created="later").write(other)
    with pytest.raises(VersionMismatchError, match="full run"):
        generate(
            dataclasses.replace(
                job, adapter=str(other), output=f"{tmp_path}/next", previous=job.output
            )
        )


def test_two_records_of_one_task_are_never_published(job, write_tasks, encode, tmp_path):
    write_tasks([encode("u", [1.0]), encode("u", [2.0])])
    generate(job)
    store = open_store(f"lmdb:{tmp_path}/store")
    with pytest.raises(StoreError, match="1 distinct task keys, expected 2"):
        publish(job.output, store)
    assert store.current(7) is None


def test_publishing_makes_one_generation_current_and_may_be_repeated(
    job, write_tasks, encode, tmp_path
):
    write_tasks([encode(f"u{n}", [n]) for n in range(30)])
    generate(job)
    store = open_store(f"lmdb:{tmp_path}/store")
    generation = publish(job.output, store)
    assert publish(job.output, store) == generation
    assert (generation.identifier, generation.count) == ("g1", 30)
    matrix, found = store.get_many(["u5", "nobody"], 7)
    np.testing.assert_array_equal(matrix[0], [1.0, 5.0, 1.0])
    assert found.tolist() == [True, False]


@pytest.mark.slow
def test_two_worker_processes_write_what_one_writes(job, write_tasks, encode, tmp_path):
    write_tasks([encode(f"u{n}", [n] * (1 + n % 5)) for n in range(40)], files=4)
    generate(job)
    double = dataclasses.replace(job, output=f"{tmp_path}/double", intra_op_threads=1)
    report = generate(double, ["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
    assert report["embedded"] == 40
    assert read(double.output) == read(job.output)


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("max_bad_fraction", 1.5), ("max_age_days", -1.0)]
)
def test_settings_out_of_range_are_named(job, field, value):
    with pytest.raises(LimamlError, match=f"{field} must.*received {value}"):
        dataclasses.replace(job, **{field: value})


def test_a_damaged_previous_output_is_named_in_one_line(job, write_tasks, encode, tmp_path):
    write_tasks([encode(f"u{n}", [n]) for n in range(50)])
    generate(job)
    file = tables.embedding_files(job.output)[0]
    group = pq.read_metadata(file).row_group(0)
    (column,) = (
        c
        for c in map(group.column, range(group.num_columns))
        if c.path_in_schema == "record_digest"
    )
    damaged = bytearray(Path(file).read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    damaged[start : start + 20] = bytes(20)
    Path(file).write_bytes(damaged)
    with pytest.raises(LimamlError, match=r"^cannot read .*embeddings-\S+\.parquet: ") as raised:
        generate(dataclasses.replace(job, output=f"{tmp_path}/next", previous=job.output))
    assert "while running" not in str(raised.value)
