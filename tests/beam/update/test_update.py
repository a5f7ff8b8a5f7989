"""``limaml update``: micro-batches between two refreshes."""

import datetime as dt
import errno
import fcntl
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from update_world import ROWS, report

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.digests import digest
from limaml_beam.update import job
from limaml_beam.update.state import UpdateState
from tfrec_limaml.cli import main
from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import open_store
from tfrec_limaml.store.erasure import key_digest
from tfrec_limaml.store.lmdb_store import LmdbStore


def digests_of_batch(world):
    """Record digests of a refresh that starts from nothing."""
    fresh = type(world)(world.folder / "fresh", world.export)
    shutil.copytree(world.folder / "raw", fresh.folder / "raw")
    assert fresh.refresh() == 0
    (output,) = (fresh.work / "embeddings").iterdir()
    batches = tables.read_batches(tables.embedding_files(str(output)))
    rows = [row for batch in batches for row in batch.to_pylist()]
    return {row["task_key"]: row for row in rows}


def test_new_rows_change_the_embeddings_of_their_members_alone(refreshed, capsys):
    new = refreshed.write([("u3", 5.0, 1), ("new", 7.0, 1.5), ("u3", 6.0, 2)], "new.parquet")
    capsys.readouterr()
    assert refreshed.update(new) == 0
    result = report(capsys)
    assert refreshed.sums("u2", "u3", "new", "nobody") == [(1, 1), (12, 3), (7, 1), None]
    assert result["rows"] == {"read": 3, "used": 3, "skipped": {}}
    assert (result["tasks"], result["upserted"], result["ignored_as_older"]) == (2, 2, 0)
    assert result["lag_seconds"]["p50"] > 0


def test_one_update_after_another_sees_all_rows_and_counts_none_twice(refreshed, capsys):
    first = refreshed.write([("u3", 5.0, 1), ("u4", 1.0, 1)], "a.parquet")
    second = refreshed.write([("u3", 6.0, 2), ("u3", 5.0, 1)], "b.parquet")
    assert refreshed.update(first) == 0
    assert refreshed.update(second) == 0
    assert refreshed.sums("u3", "u4") == [(12, 3), (2, 2)]
    capsys.readouterr()
    assert refreshed.update(first, second) == 0
    result = report(capsys)
    assert result["rows"] == {"read": 4, "used": 0, "skipped": {"duplicate": 4}}
    assert (result["tasks"], result["upserted"]) == (0, 0)
    assert result["lag_seconds"] is None
    assert refreshed.sums("u3", "u4") == [(12, 3), (2, 2)]


def test_rows_that_the_refresh_read_are_duplicates_too(refreshed, capsys):
    capsys.readouterr()
    assert refreshed.update(refreshed.write(ROWS[:5], "again.parquet")) == 0
    assert report(capsys)["rows"]["skipped"] == {"duplicate": 5}


def test_late_rows_end_where_the_batch_would_put_them(refreshed, capsys, monkeypatch):
    made = {}
    original = job.recent_records

    def recent_records(*arguments):
        keys, records = original(*arguments)
        made.update(zip(keys, records, strict=True))
        return keys, records

    monkeypatch.setattr(job, "recent_records", recent_records)
    late = [("u3", 9.0, 3), ("u3", 8.0, 0.001), ("u3", 7.0, 2), ("new", 6.0, 0.5)]
    for number in (3, 1, 0, 2):
        assert refreshed.update(refreshed.write(late[number : number + 1], "one.parquet")) == 0
    refreshed.write([*late, *ROWS])
    batch = digests_of_batch(refreshed)
    for key in ("u3", "new"):
        assert digest(made[key]) == batch[key]["record_digest"]
        matrix, _ = open_store(refreshed.store).get_many([key], 7)
        np.testing.assert_array_equal(matrix[0], batch[key]["embedding"])


def test_rows_that_cannot_be_used_are_dead_letters_with_their_reasons(refreshed, capsys):
    table = pq.read_table(
        refreshed.write([("u3", 5.0, 1), ("u4", 5.0, 1), ("u5", 5.0, 60)], "a.parquet")
    )
    click = table.column_names.index("click")
    bad = table.set_column(click, "click", [["1", "what?", "1"]])
    pq.write_table(bad, refreshed.folder / "a.parquet")
    pq.write_table(table.drop_columns(["x"]), refreshed.folder / "b.parquet")
    (refreshed.folder / "c.parquet").write_bytes(b"PAR1 and no more")
    capsys.readouterr()
    assert refreshed.update(*(str(refreshed.folder / f"{n}.parquet") for n in "abc")) == 0
    result = report(capsys)
    assert result["rows"]["skipped"] == {
        "future_time": 1,
        "invalid_label": 1,
        "unknown_schema": 1,
        "unreadable_file": 1,
    }
    assert (result["rows"]["read"], result["rows"]["used"], result["dead_letters"]) == (3, 1, 4)
    assert sorted(x["reason"] for x in refreshed.letters()) == sorted(result["rows"]["skipped"])
    assert refreshed.sums("u3", "u4", "u5") == [(6, 2), (1, 1), (1, 1)]


def test_a_row_with_a_time_in_another_unit_is_a_dead_letter_where_the_window_leaves_it_out(
    make_world, tmp_path, capsys
):
    refreshed = make_world(tmp_path)
    refreshed.write([("u3", 1.0, 0), ("u4", 1.0, 0)])
    assert refreshed.refresh("--window-days", "10000") == 0
    table = pq.read_table(refreshed.write([("u3", 5.0, 1), ("u4", 5.0, 1)], "a.parquet"))
    times = table["time"].cast("int64").to_pylist()
    seconds = table.set_column(
        table.column_names.index("time"), "time", [[times[0] // 1000, times[1]]]
    )
    pq.write_table(seconds, refreshed.folder / "a.parquet")
    capsys.readouterr()
    assert refreshed.update(str(refreshed.folder / "a.parquet")) == 0
    assert report(capsys)["rows"]["skipped"] == {"implausible_time": 1}
    (letter,) = refreshed.letters()
    assert (letter["reason"], letter["row"]["time"]) == ("implausible_time", times[0] // 1000)
    assert refreshed.sums("u3", "u4") == [(1, 1), (6, 2)]


def test_a_record_that_the_adapter_makes_nothing_finite_of_is_a_dead_letter(refreshed, capsys):
    capsys.readouterr()
    assert refreshed.update(refreshed.write([("u3", 3e38, 1), ("u3", 3e38, 2)], "a.parquet")) == 0
    result = report(capsys)
    assert (result["upserted"], result["dead_letters"]) == (0, 1)
    assert refreshed.letters()[0]["reason"] == "not_finite"
    assert refreshed.sums("u3") == [(1, 1)]


def test_a_second_updater_is_refused_while_the_first_runs(refreshed, capsys):
    with open(refreshed.work / "update.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refreshed.update(refreshed.write(ROWS[:1], "a.parquet")) == 2
    assert "another update" in capsys.readouterr().err
    assert refreshed.update(refreshed.write(ROWS[:1], "a.parquet")) == 0


@pytest.mark.parametrize("place", ["upsert", "state"])
def test_an_update_that_breaks_off_is_done_again(refreshed, monkeypatch, place, capsys):
    def broken(*arguments, **named):
        raise StoreError("the store is away")

    new = refreshed.write([("u3", 5.0, 1)], "a.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(
            *((LmdbStore, "upsert") if place == "upsert" else (UpdateState, "put")), broken
        )
        assert refreshed.update(new) == 2
    assert refreshed.sums("u3") == [(1, 1) if place == "upsert" else (6, 2)]
    assert refreshed.update(new) == 0
    assert refreshed.sums("u3") == [(6, 2)]


def test_the_next_refresh_takes_over_what_it_does_not_know_and_agrees_on_the_rest(
    refreshed, capsys
):
    known = [("u3", 5.0, 1), ("new", 7.0, 1.5)]
    later = [("u5", 8.0, 3), ("late", 4.0, 3)]
    assert refreshed.update(refreshed.write([*known, *later], "a.parquet")) == 0
    refreshed.write([*ROWS, *known])
    assert refreshed.refresh() == 0
    updates = json.loads((refreshed.work / "refresh.json").read_text())["updates"]
    assert updates == {
        "updated_tasks": 4,
        "newer_than_batch": 1,
        "not_in_batch": 1,
        "compared": 2,
        "agreeing": 2,
        "reconciled_share": 1.0,
    }
    expected = [(6, 2), (7, 1), (9, 2), (4, 1)]
    assert refreshed.sums("u3", "new", "u5", "late") == expected
    capsys.readouterr()
    assert refreshed.update(refreshed.write([("u5", 1.0, 4), ("u3", 1.0, 4)], "b.parquet")) == 0
    assert refreshed.sums("u3", "u5") == [(7, 3), (10, 3)]


def test_a_batch_that_knows_other_rows_lowers_the_reconciled_share(refreshed):
    rows = [("u3", 5.0, 1), ("u4", 6.0, 1)]
    assert refreshed.update(refreshed.write(rows, "a.parquet")) == 0
    refreshed.write([*ROWS, ("u3", 5.0, 1), ("u4", 6.5, 1)])
    assert refreshed.refresh() == 0
    updates = json.loads((refreshed.work / "refresh.json").read_text())["updates"]
    assert (updates["compared"], updates["reconciled_share"]) == (2, 0.5)
    assert refreshed.sums("u4") == [(7.5, 2)]


def test_erased_members_stay_out_of_updates_and_go_from_their_state(refreshed, capsys):
    new = refreshed.write([("u3", 5.0, 1), ("u4", 5.0, 1)], "a.parquet")
    assert refreshed.update(new) == 0
    (refreshed.folder / "outputs.yaml").write_text("- work\n")
    command = [
        *("erase", "u3", "--store", refreshed.store),
        *("--manifest-of-outputs", str(refreshed.folder / "outputs.yaml")),
    ]
    assert main([*command, "--verify"]) == 1
    indexes = {p: p.read_bytes() for p in (refreshed.work / "tasks" / "user").glob("*.npy")}
    assert main(command) == 0
    assert main([*command, "--verify"]) == 0
    for path, content in indexes.items():  # as where it was killed before the last file
        path.write_bytes(content)
    assert main(command) == 0
    assert refreshed.sums("u3", "u4") == [None, (6, 2)]
    capsys.readouterr()
    assert refreshed.update(new) == 0
    assert report(capsys)["rows"]["skipped"] == {"erased": 1, "duplicate": 1}
    assert refreshed.sums("u3", "u4") == [None, (6, 2)]
    assert refreshed.update(refreshed.write([("u4", 1.0, 2)], "b.parquet")) == 0
    assert refreshed.sums("u4") == [(7, 3)]
    assert main([*command, "--verify"]) == 0


def test_updates_leave_out_members_whose_tombstones_only_the_work_folder_has(refreshed, capsys):
    (refreshed.work / "tombstones").write_bytes(key_digest("u3"))
    assert refreshed.update(refreshed.write([("u3", 5.0, 1), ("u4", 5.0, 1)], "a.parquet")) == 0
    assert report(capsys)["rows"]["skipped"] == {"erased": 1}


def test_without_kept_rows_an_update_says_what_to_run(world, capsys):
    world.work.mkdir()
    assert world.update(world.write(ROWS)) == 2
    assert "--keep-rows`, and give --keep-rows to every later" in capsys.readouterr().err


def test_a_refresh_removes_dead_letters_that_are_too_old(refreshed, capsys):
    folder = refreshed.work / "updates" / "dead_letter"
    folder.mkdir(parents=True)
    today = dt.datetime.now(dt.UTC)
    old, newer = (f"{today - dt.timedelta(days=days):%Y%m%d}.jsonl" for days in (32, 29))
    for name in (old, newer, "notes.jsonl"):
        (folder / name).write_text("{}\n")  # written now, as by an erasure
    assert refreshed.refresh("--dead-letter-days", "-1") == 2
    assert "dead_letter_days must not be negative" in capsys.readouterr().err
    assert refreshed.refresh() == 0
    assert {file.name for file in folder.iterdir()} == {newer, "notes.jsonl"}
    assert refreshed.refresh("--dead-letter-days", "27") == 0
    assert [file.name for file in folder.iterdir()] == ["notes.jsonl"]


def test_a_full_disk_fails_an_update_with_one_line(refreshed, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    new = refreshed.write([("u3", 5.0, 1)], "a.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_letters", full)
        assert refreshed.update(new) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert refreshed.update(new) == 0
    assert refreshed.sums("u3") == [(6, 2)]
