"""Both jobs on a real S3 server: inputs, schema, outputs and temporary files."""

from __future__ import annotations

import gzip
import json

import pyarrow.parquet as pq
import pytest

from limaml_beam.io.pipeline_options import use_options
from limaml_beam.io.sources import Source, read_tables
from tfrec_limaml.cli import main
from tfrec_limaml.schema.schema import parse_time
from tfrec_limaml.store import open_store


def names(s3, prefix):
    listed = s3[1].list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {entry["Key"].removeprefix(prefix) for entry in listed}


def records(s3, prefix):
    found = [
        gzip.decompress(s3[1].get_object(Bucket="bucket", Key=f"{prefix}/{name}")["Body"].read())
        for name in sorted(names(s3, f"{prefix}/"))
        if ".tfrecord" in name
    ]
    return b"".join(found)


@pytest.mark.slow
def test_a_day_of_both_jobs_runs_on_s3_and_writes_what_a_local_day_writes(
    s3, flags, upload, raw, export, tmp_path, capsys
):
    window = ["--recent-only", "--window-end", "2022-06-01", "--shards", "2"]
    remote = upload(raw, "raw")
    assert main(["prepare", str(raw), "--output", f"{tmp_path}/tasks", *window]) == 0
    report = "s3://bucket/prepare.json"
    assert (
        main(
            [
                "prepare",
                remote,
                "--output",
                "s3://bucket/tasks",
                *window,
                *flags,
                "--report",
                report,
            ]
        )
        == 0
    ), capsys.readouterr().err
    local = b"".join(
        gzip.decompress(path.read_bytes())
        for path in sorted((tmp_path / "tasks" / "user").glob("*.tfrecord.gz"))
    )
    assert records(s3, "tasks/user") == local
    assert not [name for name in names(s3, "") if "partial" in name]
    body = s3[1].get_object(Bucket="bucket", Key="prepare.json")["Body"].read()
    assert json.loads(body)["outcome"] == "done"

    address = f"lmdb:{tmp_path}/store"
    assert (
        main(
            [
                "embed", "s3://bucket/tasks", "--export", upload(export, "export"),
                "--output", "s3://bucket/out", "--store", address, *flags,
            ]
        )
        == 0
    )  # fmt: skip
    assert "report.json" in names(s3, "out/")
    store = open_store(address)
    assert store.get_many([f"u{n}" for n in range(20)], 7)[1].all()
    store.close()


def test_patterns_and_schema_on_s3_are_read_with_the_given_options(s3, flags, upload, raw, capsys):
    rows = pq.read_table(raw / "interactions.parquet").to_pandas()
    rows.iloc[:100].to_csv(raw / "a.csv", index=False)
    rows.iloc[100:].to_csv(raw / "b.csv", index=False)
    (raw / "_SUCCESS").touch()
    (raw / "c.csv").touch()
    remote = upload(raw, "log")
    arguments = [
        "prepare", "--schema", f"{remote}/schema.yaml", "--interactions", f"{remote}/*.csv",
        "--interactions", f"{remote}/_SUCCESS", "--recent-only", "--window-end", "2022-06-01",
    ]  # fmt: skip
    assert main([*arguments, "--output", "s3://bucket/other", *flags, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["rows"]["used"] == 200
    assert card["files"]["interactions"] == {
        "read": 2,
        "empty": ["s3://bucket/log/c.csv"],
        "markers": 1,
        "outside_dates": 0,
    }
    # A model trained on these records gives the prior of a later run.
    assert main(["prepare", "s3://bucket/none", "--output", "s3://bucket/x", *flags]) == 2
    assert "no folder s3://bucket/none" in capsys.readouterr().err


def test_a_partitioned_folder_on_s3_is_read_as_a_local_one(s3, flags, upload, tmp_path):
    for day in ("2026-01-01", "2026-01-05"):
        (tmp_path / "lake" / f"day={day}").mkdir(parents=True)
        (tmp_path / "lake" / f"day={day}" / "part-0.csv").write_text(f"a\n{day}x\n")
    (tmp_path / "lake" / "_SUCCESS").touch()
    remote = upload(tmp_path / "lake", "lake")
    use_options([flag.removeprefix("--beam=") for flag in flags])
    dates = (parse_time("2026-01-05"), parse_time("2026-01-06"))
    source = Source.match("interactions", remote, dates=dates)
    assert source.files == (f"{remote}/day=2026-01-05/part-0.csv",)
    assert source.outside == (f"{remote}/day=2026-01-01/part-0.csv",)
    assert source.markers == (f"{remote}/_SUCCESS",)
    (table,) = [t for t in read_tables((source.files[0], None), ["a", "day"], 9) if t.num_rows]
    assert table.to_pydict() == {"a": ["2026-01-05x"], "day": ["2026-01-05"]}


def test_a_work_folder_on_s3_is_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refresh = ["refresh", "RAW", "--export", "E", "--store", "lmdb:S", "--work", "s3://b/w"]
    assert main(refresh) == 2
    assert "--work must be a folder of this machine or a mount" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_paths_with_glob_characters_are_read_as_they_are(raw, tmp_path, capsys):
    folder = tmp_path / "run[1]"
    raw.rename(folder)
    window = ["--recent-only", "--window-end", "2022-06-01"]
    assert main(["prepare", str(folder), "--output", f"{tmp_path}/out[2]", *window]) == 0
    rows = pq.read_table(folder / "interactions.parquet").to_pandas()
    rows.to_csv(folder / "x.csv", index=False)
    assert (
        main(
            [
                "prepare", "--schema", f"{folder}/schema.yaml", "--interactions", f"{folder}/*.csv",
                "--output", f"{tmp_path}/b", *window, "--json",
            ]
        )
        == 0
    )  # fmt: skip
    assert '"used": 200' in capsys.readouterr().out
