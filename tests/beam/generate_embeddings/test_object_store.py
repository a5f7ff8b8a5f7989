"""Everything that the job reads and writes, on a filesystem that only Beam knows."""

import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pytest

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.job import finish, generate, launch
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.generate_embeddings.report import read_report
from limaml_beam.io import staged_output
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError, SchemaError, VersionMismatchError
from tfrec_limaml.store import open_store

BUCKET = "objects://bucket"


def read(folder):
    rows = [
        row
        for batch in tables.read_batches(tables.embedding_files(folder))
        for row in pa.Table.from_batches([batch]).to_pylist()
    ]
    return sorted(rows, key=lambda row: row["task_key"])


@pytest.fixture
def records(encode):
    """Records of two days; ``records[1]`` changes a task, adds one and leaves one out."""
    first = {f"u{n}": encode(f"u{n}", [n / 7] * (1 + n % 3)) for n in range(50)}
    second = {**first, "u3": encode("u3", [9.0, 9.0]), "new": encode("new", [1.0])}
    del second["u4"]
    return list(first.values()), list(second.values())


@pytest.fixture
def local(tmp_path, export, write_tasks, records):
    tasks = write_tasks(records[0], name="tasks")
    return EmbeddingJob(
        tasks=str(tasks), adapter=f"{export}/adapter/7", output=f"{tmp_path}/out", generation="g1"
    )


@pytest.fixture
def job(local, upload, tmp_path, export):
    """The same job with every folder in the bucket."""
    return dataclasses.replace(
        local,
        tasks=upload(tmp_path / "tasks", f"{BUCKET}/tasks"),
        adapter=f"{upload(export, f'{BUCKET}/export')}/adapter/7",
        output=f"{BUCKET}/out",
    )


def test_a_run_on_an_object_store_writes_what_a_local_run_writes(local, job, object_store):
    expected, report = generate(local), generate(job)
    assert read(job.output) == read(local.output)
    assert read_report(job.output) == report
    varying = ("seconds", "statistics")
    assert {k: v for k, v in report.items() if k not in varying} == {
        k: v for k, v in expected.items() if k not in varying
    }
    assert [name for name in object_store.objects if "partial" in name] == []


def test_an_incremental_run_carries_over_from_an_object_store(
    local, job, records, write_tasks, upload, tmp_path
):
    generate(job)
    today = write_tasks(records[1], name="today")
    full = dataclasses.replace(local, tasks=str(today), output=f"{tmp_path}/full", generation="g2")
    increment = dataclasses.replace(
        job,
        tasks=upload(today, f"{BUCKET}/today"),
        output=f"{BUCKET}/next",
        previous=job.output,
        generation="g2",
    )
    generate(full)
    report = generate(increment)
    assert (report["embedded"], report["carried"], report["aged_out"]) == (2, 48, 1)
    assert read(increment.output) == read(full.output)


def test_the_report_is_the_last_object_to_come_and_the_first_to_go(job, object_store):
    generate(job)
    renamed = [
        name
        for change, name in object_store.changes
        if change == "rename" and name.startswith(f"{job.output}/")
    ]
    assert len(renamed) > 2
    assert renamed[-1] == f"{job.output}/report.json"
    object_store.changes.clear()
    staged_output.discard(job.output)
    assert object_store.changes[0] == ("delete", f"{job.output}/report.json")
    assert staged_output.check_free(job.output, False, staged_output.REPORT_FILE) is None


def test_an_output_that_is_still_being_renamed_is_refused_by_every_reader(
    job, object_store, tmp_path, monkeypatch
):
    def cut(self, sources, targets):
        if any(target.endswith("report.json") for target in targets):
            raise OSError("the connection is gone")
        return rename(self, sources, targets)

    rename = object_store.rename
    monkeypatch.setattr(object_store, "rename", cut)
    with pytest.raises(LimamlError, match="connection is gone"):
        generate(job)
    monkeypatch.undo()
    assert tables.embedding_files(job.output)
    store = open_store(f"lmdb:{tmp_path}/store")
    for use in (
        lambda: read_report(job.output),
        lambda: publish(job.output, store),
        lambda: generate(dataclasses.replace(job, output=f"{BUCKET}/next", previous=job.output)),
    ):
        with pytest.raises(LimamlError, match=r"holds no report\.json"):
            use()
    assert store.current(7) is None
    with pytest.raises(LimamlError, match="--overwrite"):
        generate(job)
    assert generate(job, overwrite=True)["rows"] == 50


def test_what_is_missing_in_the_bucket_is_named(job, object_store):
    for name, error, words in (
        ("tasks/schema.yaml", SchemaError, "no schema file at objects://bucket/tasks/schema.yaml"),
        (
            "export/adapter/7/assets.extra/manifest.json",
            VersionMismatchError,
            "no manifest at objects://bucket/export/adapter/7",
        ),
    ):
        kept = object_store.objects.pop(f"{BUCKET}/{name}")
        with pytest.raises(error, match=re.escape(words)):
            generate(job)
        object_store.objects[f"{BUCKET}/{name}"] = kept
    with pytest.raises(LimamlError, match="no filesystem for 'nowhere://x"):
        generate(dataclasses.replace(job, tasks="nowhere://x"))


def test_a_job_is_not_finished_under_an_export_that_it_did_not_begin_with(job, object_store):
    launch(job)
    name = f"{job.adapter}/assets.extra/manifest.json"
    object_store.objects[name] = object_store.objects[name].replace(
        b'"created": ""', b'"created": "later"'
    )
    with pytest.raises(VersionMismatchError, match="run the job again"):
        finish(job)
    assert f"{job.output}.launched/counts.json" in object_store.objects


def test_a_launch_that_fails_leaves_nothing_to_finish(job, object_store):
    for name in [name for name in object_store.objects if "recent-" in name]:
        del object_store.objects[name]
    with pytest.raises(LimamlError, match=r"no recent-\*"):
        launch(job)
    assert [name for name in object_store.objects if ".launched" in name] == []


def test_the_commands_two_steps_publish_what_one_step_publishes(
    local, job, object_store, tmp_path, capsys
):
    generate(local)
    address = f"lmdb:{tmp_path}/store"
    arguments = [
        "embed",
        job.tasks,
        "--export",
        f"{BUCKET}/export",
        "--output",
        job.output,
        "--json",
    ]
    assert main([*arguments, "--finish"]) == 2
    assert "no job was launched for objects://bucket/out" in capsys.readouterr().err
    assert main([*arguments, "--launch-only"]) == 0
    generation = json.loads(capsys.readouterr().out)["generation"]
    assert f"{job.output}/report.json" not in object_store.objects
    assert main([*arguments, "--launch-only"]) == 2
    assert "waits for --finish" in capsys.readouterr().err
    counts = object_store.objects.pop(f"{job.output}.launched/counts.json")
    assert main([*arguments, "--finish"]) == 2
    assert "is not done" in capsys.readouterr().err
    object_store.objects[f"{job.output}.launched/counts.json"] = counts
    assert main([*arguments, "--finish", "--store", address]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == generation
    expected = [{**row, "generation": generation} for row in read(local.output)]
    assert read(job.output) == expected
    matrix, found = open_store(address).get_many([row["task_key"] for row in expected], 7)
    assert found.all()
    np.testing.assert_array_equal(matrix, [row["embedding"] for row in expected])
    assert [name for name in object_store.objects if ".launched" in name] == []
