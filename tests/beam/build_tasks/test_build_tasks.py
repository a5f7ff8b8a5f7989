"""The task-building pipeline from files to files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.io import staged_output
from limaml_beam.io.pipeline_options import local_by_default
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature, Label, parse_time
from tfrec_limaml.schema.task_keys import encode_task_key


def run(raw: Path, schema, output: Path, files=None, bad=0.05, **changes):
    tables = {name: str(raw / f"{name}.parquet") for name in schema.tables}
    inputs = Inputs.find(schema, files or str(raw / "interactions.parquet"), tables)
    dates = {
        k: changes.pop(k)
        for k in list(changes)
        if k in ("window_days", "recent_only", "window_end", "validation_start", "test_start")
    }
    settings = {
        "definitions": tuple(schema.tasks),
        "shards": 2,
        "partitions": 3,
        "batch_rows": 64,
        **date_fields(schema, **dates),
        **changes,
    }
    return build_tasks(
        schema,
        inputs,
        str(output),
        TaskSettings(**settings),
        options=local_by_default([]),
        max_bad_fraction=bad,
    )


def expected(frames, keys, start, stop, cap):
    """Reference: plain loops over a sorted frame."""
    log = frames["interactions"]
    chosen = log[(log.time >= start) & (log.time < stop)]
    out = {}
    for values, rows in chosen.groupby(list(keys)):
        key = encode_task_key(values if isinstance(values, tuple) else (values,))
        out[key] = sorted(rows.time)[-cap:]
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, shop_schema, shop_frames, write_raw):
    frames, tmp_path = shop_frames(), tmp_path_factory.mktemp("prepared")
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    card = run(raw, shop_schema, tmp_path / "tasks", max_samples=7, max_query=9)
    return tmp_path / "tasks", frames, card


def test_every_split_holds_exactly_the_rows_that_plain_loops_choose(
    prepared, shop_schema, read_tasks
):
    tasks, frames, _ = prepared
    validation, test = parse_time("2024-01-07"), parse_time("2024-01-09")
    for definition, keys in shop_schema.tasks.items():
        train = expected(frames, keys, 0, validation, 7)
        before_test = expected(frames, keys, 0, test, 7)
        queries = {
            "validation": expected(frames, keys, validation, test, 9),
            "test": expected(frames, keys, test, 2**60, 9),
        }
        for split, support in (("train", train), ("recent", before_test)):
            found = read_tasks(tasks, definition, split)
            assert {
                key: [r["timestamp"] for r in rows] for key, (_, rows) in found.items()
            } == support
            assert {query_start for query_start, _ in found.values()} == {-1}
        for split, support in (("validation", train), ("test", before_test)):
            found = read_tasks(tasks, definition, split)
            assert set(found) == set(queries[split])
            for key, (query_start, rows) in found.items():
                times = [row["timestamp"] for row in rows]
                assert times[:query_start] == support.get(key, [])
                assert times[query_start:] == queries[split][key]


def test_joined_and_carried_values_arrive_unchanged(prepared, read_tasks):
    tasks, frames, _ = prepared
    people, items = frames["members"].set_index("member"), frames["items"].set_index("item")
    log = frames["interactions"]
    for key, (_, rows) in read_tasks(tasks, "member", "recent").items():
        for row in rows:
            match = log[
                (log.member == int(key))
                & (log.time == row["timestamp"])
                & np.isclose(log.dwell, row["dwell"])
            ].iloc[0]
            assert row["country"].decode() == people.country[int(key)]
            assert row["age"] == people.age[int(key)]
            assert row["kind"].decode() == match.kind
            assert row["label"] == match.opened
            assert row["weight"] == match.importance
            assert row["tags"].decode() == items.tags[match["item"]]
            assert row["look"] == pytest.approx(items.look[match["item"]], rel=1e-6)


def test_the_order_and_the_files_that_rows_arrive_in_do_not_change_a_byte(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=150)
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    run(raw, shop_schema, tmp_path / "once")
    shuffled = frames["interactions"].sample(frac=1.0, random_state=1)
    shuffled.iloc[:40].to_parquet(tmp_path / "part-1.parquet")
    shuffled.iloc[40:].to_parquet(tmp_path / "part-2.parquet", row_group_size=30)
    run(
        raw,
        shop_schema,
        tmp_path / "again",
        files=str(tmp_path / "part-*.parquet"),
        batch_rows=17,
        partitions=5,
    )
    for path in sorted((tmp_path / "once").rglob("*.tfrecord.gz")):
        other = tmp_path / "again" / path.relative_to(tmp_path / "once")
        assert gzip.decompress(path.read_bytes()) == gzip.decompress(other.read_bytes())
    # Sums of floats depend on the order of the rows in the last digits.
    one, two = (
        json.loads((tmp_path / run_ / "statistics.json").read_text()) for run_ in ("once", "again")
    )
    assert one["features"]["kind"] == two["features"]["kind"]
    assert one["features"]["price"]["mean"] == pytest.approx(
        two["features"]["price"]["mean"], rel=1e-12
    )


def test_the_window_limits_support_rows_but_not_queries(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames())
    card = run(raw, shop_schema, tmp_path / "tasks", window_days=1.5)
    for split, start_date in (("validation", "2024-01-07"), ("test", "2024-01-09")):
        limit = parse_time(start_date) - round(1.5 * 86_400_000)
        for query_start, rows in read_tasks(tmp_path / "tasks", "member", split).values():
            assert all(
                limit <= row["timestamp"] < parse_time(start_date) for row in rows[:query_start]
            )
            assert all(row["timestamp"] >= parse_time(start_date) for row in rows[query_start:])
    assert card["rows"]["skipped"]["outside_dates"] > 0


def test_a_daily_job_writes_recent_records_only_and_sees_nothing_after_the_window(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames())
    run(
        raw,
        shop_schema.replace(split=None),
        tmp_path / "tasks",
        recent_only=True,
        window_end="2024-01-08",
        window_days=2,
    )
    assert {path.name.split("-")[0] for path in (tmp_path / "tasks" / "member").iterdir()} == {
        "recent"
    }
    times = [
        row["timestamp"]
        for _, rows in read_tasks(tmp_path / "tasks", "member", "recent").values()
        for row in rows
    ]
    assert parse_time("2024-01-06") <= min(times)
    assert max(times) < parse_time("2024-01-08")


def test_every_input_row_is_used_or_skipped_with_a_reason(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=200)
    log = (
        frames["interactions"]
        .reset_index(drop=True)
        .astype({"price": float, "opened": float, "time": float, "member": "float"})
    )
    log.loc[0, "time"] = np.nan
    log.loc[1, "opened"] = 2
    log.loc[2, "price"] = np.inf
    log.loc[3, "member"] = np.nan
    log.loc[4, "importance"] = -1
    log.loc[5, "time"] = parse_time("2031-01-01")
    log.loc[6, "item"] = 77  # unknown to the table of items: filled
    frames["interactions"] = pd.concat([log, log.iloc[10:13], log.iloc[10:11]])
    features = tuple(
        f if f.name != "price" else Feature(name="price", normalise="log", on_invalid="skip")
        for f in shop_schema.features
    )
    schema = shop_schema.replace(features=features)
    card = run(write_raw(tmp_path / "raw", schema, frames), schema, tmp_path / "tasks")
    assert card["rows"] == {
        "read": 204,
        "used": 194,
        "skipped": {
            "duplicate": 4,
            "invalid_feature:price": 1,
            "invalid_label": 1,
            "invalid_timestamp": 1,
            "invalid_weight": 1,
            "missing_key:member": 1,
            "outside_dates": 1,
        },
    }
    assert card["unknown_keys"] == {"items": 1, "members": 1}
    assert card["filled"]["tags"] == 1
    letters = [
        json.loads(line)
        for path in (tmp_path / "tasks" / "dead_letter").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert sorted(letter["reason"] for letter in letters) == [
        "invalid_feature:price",
        "invalid_label",
        "invalid_timestamp",
        "invalid_weight",
        "missing_key:member",
    ]
    assert (
        next(letter for letter in letters if letter["reason"] == "invalid_label")["row"]["opened"]
        == 2.0
    )


def test_too_many_invalid_rows_fail_the_run_before_anything_is_published(
    tmp_path, shop_schema, shop_frames, write_raw
):
    frames = shop_frames(rows=100)
    frames["interactions"].iloc[:11, frames["interactions"].columns.get_loc("opened")] = 7
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    with pytest.raises(LimamlError, match=r"11 of 100 rows are invalid.*invalid_label.*rejected"):
        run(raw, shop_schema, tmp_path / "tasks", bad=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tasks.rejected"]
    assert run(raw, shop_schema, tmp_path / "tasks", bad=0.11)["rows"]["used"] <= 89


def test_a_label_that_must_be_valid_stops_the_run(tmp_path, shop_schema, shop_frames, write_raw):
    schema = shop_schema.replace(label=Label(name="opened", on_invalid="error"))
    frames = shop_frames(rows=300)
    frames["interactions"].iloc[5, frames["interactions"].columns.get_loc("opened")] = 3
    with pytest.raises(
        LimamlError,
        match=r"1 of 300 rows are invalid where the schema says on_invalid: error.*invalid_label",
    ):
        run(write_raw(tmp_path / "raw", schema, frames), schema, tmp_path / "tasks", bad=1.0)
    assert not (tmp_path / "tasks").exists()


def test_a_split_without_rows_names_the_time_span_of_the_data(
    tmp_path, shop_schema, shop_frames, write_raw
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=60))
    with pytest.raises(LimamlError, match=r"no rows in train.*2024-01-0"):
        run(raw, shop_schema, tmp_path / "tasks", validation_start="2023-01-01")


def test_an_existing_output_is_kept_unless_overwriting_is_asked_for(
    tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150))
    output = tmp_path / "tasks"
    assert main(["prepare", str(raw), "--output", str(output), "--task", "member", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(output)
    (output / "mark").touch()
    assert main(["prepare", str(raw), "--output", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (output / "mark").exists()
    assert main(["prepare", str(raw), "--output", str(output), "--overwrite"]) == 0
    assert not (output / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "tasks"]


def test_shuffles_of_the_in_process_runner_lie_in_files_that_go_with_the_run(
    tmp_path, shop_schema, shop_frames, write_raw, monkeypatch
):
    raw = write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=200))
    discard, scratch = staged_output.discard, []

    def spy(directory: str) -> None:
        if directory.endswith("_shuffle"):
            scratch.append(sum(path.stat().st_size for path in Path(directory).iterdir()))
        discard(directory)

    monkeypatch.setattr(staged_output, "discard", spy)
    run(raw, shop_schema, tmp_path / "tasks")
    (size,) = scratch
    assert size > 200 * 50  # every row, several times
    assert (
        sorted(
            path.name for path in (tmp_path / "tasks").iterdir() if path.name.startswith((".", "_"))
        )
        == []
    )
