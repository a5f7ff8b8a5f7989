"""The task-building pipeline from files to files: which rows are in which record."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from task_building import run

from tfrec_limaml.schema.schema import parse_time
from tfrec_limaml.schema.task_keys import encode_task_key


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
