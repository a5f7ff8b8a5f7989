"""A model of two definitions from day to day: refreshes, updates, streams and erasures of users
and videos, against the closed form of a toy model.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from two_sided_toy import ROWS, VIDEO, Simulation
from update_world import after, report

from limaml_beam.update import adapting
from limaml_beam.update.state import UpdateState, state_folder
from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

NEW = [("u1", "v2", 5.0, 1.0), ("new", "v2", 2.0, 1.5), ("u1", "fresh", 3.0, 2.0)]


@pytest.fixture
def world(two_sides):
    return two_sides


def check(world, expected):
    found = world.stored(*expected)
    assert None not in found.values()
    made = np.array([found[key] for key in expected])
    np.testing.assert_allclose(made, list(expected.values()), rtol=1e-6)


def test_a_refresh_adapts_both_sides_in_turns_from_nothing(two_sides_once):
    check(two_sides_once, Simulation(ROWS).embeddings())


def test_all_turns_of_a_refresh_use_the_model_that_was_loaded_once(world, loads):
    assert world.refresh() == 0
    assert loads == [str(world.export / "adapter" / str(world.version))]


def test_new_rows_touch_the_record_of_their_user_and_of_their_video(world, capsys):
    expected = Simulation(ROWS)
    everyone = list(expected.embeddings())
    before = world.stored(*everyone)
    capsys.readouterr()
    assert world.update(world.write(NEW, "a.parquet")) == 0
    result = report(capsys)
    assert result["rows"] == {"read": 3, "used": 3, "skipped": {}}
    assert (result["tasks"], result["upserted"]) == (4, 4)
    touched = expected.see(NEW)
    check(world, expected.embeddings(*touched))
    others = [key for key in everyone if key not in touched]
    assert world.stored(*others) == {key: before[key] for key in others}


def test_an_update_of_everybody_is_a_refresh(world):
    new = [(f"u{n}", f"v{n % 4}", 1.0 + n, 1.0) for n in range(6)]
    assert world.update(world.write(new, "a.parquet")) == 0
    check(world, Simulation([*ROWS, *new]).embeddings())


def test_one_update_after_another_sees_all_rows_and_counts_none_twice(world, capsys):
    expected = Simulation(ROWS)
    assert world.update(world.write(NEW, "a.parquet")) == 0
    expected.see(NEW)
    later = [("u3", "fresh", 1.0, 3.0)]
    capsys.readouterr()
    assert world.update(world.write([*NEW, *later, *ROWS[:2]], "b.parquet")) == 0
    assert report(capsys)["rows"]["skipped"] == {"duplicate": 5}
    expected.see(later)
    check(world, expected.embeddings())


def test_an_update_whose_rows_are_all_there_loads_no_model(world, monkeypatch):
    def never(*arguments):
        raise AssertionError("nothing is to be adapted")

    monkeypatch.setattr(adapting, "load_model", never)
    assert world.update(world.write(ROWS[:3], "a.parquet")) == 0


def test_a_stream_keeps_both_sides_fresh(world):
    expected = Simulation(ROWS)
    (world.folder / "in").mkdir()
    world.write(NEW, "in/a.parquet")
    command = [
        *("stream", "--from-folder", str(world.folder / "in"), "--work", str(world.work)),
        *("--store", world.store, "--window-end", "2022-06-01", "--poll-seconds", "0.1"),
    ]
    assert main([*command, "--stop-when-idle", "0.1"]) == 0
    expected.see(NEW)
    check(world, expected.embeddings())


def test_the_next_refresh_agrees_on_the_records_of_both_sides_and_keeps_what_is_newer(world):
    later = [("u5", "late", 1.0, 4.0)]
    assert world.update(world.write([*NEW, *later], "a.parquet")) == 0
    newer = world.stored("u5", f"{VIDEO}late")
    world.write([*ROWS, *NEW])
    assert world.refresh() == 0
    assert world.result()["updates"] == {
        "updated_tasks": 6,
        "newer_than_batch": 1,
        "not_in_batch": 1,
        "compared": 4,
        "agreeing": 4,
        "reconciled_share": 1.0,
    }
    batch = Simulation([*ROWS, *NEW]).embeddings()
    del batch["u5"]
    check(world, batch)
    assert world.stored("u5", f"{VIDEO}late") == newer


def test_a_batch_with_other_rows_lowers_the_share_of_both_sides(world):
    assert world.update(world.write(NEW, "a.parquet")) == 0
    world.write([*ROWS, *NEW[:2], ("u1", "fresh", 3.5, 2.0)])
    assert world.refresh() == 0
    updates = world.result()["updates"]
    assert (updates["compared"], updates["agreeing"]) == (4, 2)


def test_rows_that_leave_the_window_leave_both_sides(world):
    window = ("--window-days", "3", "--window-end")
    assert world.refresh(*window, after(3)) == 0
    expected = Simulation(ROWS)
    end = ("--window-end", after(3))
    assert world.update(world.write(NEW, "a.parquet"), more=end) == 0
    touched = expected.see(NEW)
    later = ("--window-end", after(3.055))  # without the first six rows
    assert world.update(world.write([], "b.parquet"), more=later) == 0
    expected.rows = expected.rows[6:]
    expected.adapt(["u1", f"{VIDEO}v2"])
    check(world, expected.embeddings(*touched))


def test_a_refresh_that_would_keep_members_outside_the_window_is_refused_before_it_prepares(
    world, capsys
):
    card = world.work / "tasks" / "data_card.json"
    prepared = card.stat().st_mtime_ns
    published = world.result()["published"]
    assert world.refresh("--max-age-days", "3") == 2
    assert "leave out --max-age-days" in capsys.readouterr().err
    assert card.stat().st_mtime_ns == prepared
    assert world.result()["published"] is None
    assert open_store(world.store).current(world.version).identifier == published


def test_without_the_earlier_turns_an_update_says_what_to_run(world, capsys):
    (output,) = (world.work / "embeddings").iterdir()
    shutil.rmtree(output / "turns")
    assert world.update(world.write(NEW, "a.parquet")) == 2
    remedy = "run `limaml refresh --keep-rows`, and give --keep-rows to every later refresh"
    assert remedy in capsys.readouterr().err


def erase(world, *more):
    outputs = world.folder / "outputs.yaml"
    outputs.write_text("- work\n")
    command = ["erase", *more, "--store", world.store, "--manifest-of-outputs", str(outputs)]
    return main(command)


@pytest.mark.parametrize(("key", "column"), [("u1", 0), (f"{VIDEO}v2", 1)])
def test_an_erased_task_goes_from_its_own_records_and_from_rows_of_the_other_side(
    world, key, column, capsys
):
    expected = Simulation(ROWS)
    expected.see(NEW)
    assert world.update(world.write(NEW, "a.parquet")) == 0
    assert erase(world, key, "--verify") == 1
    assert erase(world, key) == 0
    assert erase(world, key, "--verify") == 0
    assert world.stored(key) == {key: None}
    for file in (p for p in world.work.rglob("*") if p.is_file() and "updates" not in p.parts):
        assert key.removeprefix(VIDEO).encode() not in file.read_bytes() or file.suffix == ".json"
    expected.forget(key)
    capsys.readouterr()
    more = [("u2", "v3", 1.0, 3.0), ("u1", "v3", 1.0, 3.0), ("u2", "v2", 1.0, 3.0)]
    assert world.update(world.write([*NEW, *more], "b.parquet")) == 0
    left = [row for row in more if row[column] != key.removeprefix(VIDEO)]
    gone = [row for row in (*NEW, *more) if row[column] == key.removeprefix(VIDEO)]
    assert report(capsys)["rows"]["skipped"]["erased"] == len(gone)
    check(world, expected.embeddings(*expected.see(left)))
    world.write([*ROWS, *NEW, *more])
    assert world.refresh("--min-rows-per-day-ratio", "0") == 0
    updates = world.result()["updates"]
    assert (updates["compared"], updates["reconciled_share"]) == (updates["updated_tasks"], 1.0)
    check(world, Simulation(expected.rows).embeddings())
    assert erase(world, key, "--verify") == 0


def test_a_key_means_a_task_of_its_own_definition_alone(world):
    assert world.update(world.write([("v2", "u1", 1.0, 1.0)], "a.parquet")) == 0
    assert erase(world, "v2") == 0
    held = UpdateState(state_folder(world.work))
    assert (held.tasks(), held.tasks(VIDEO)) == ({}, {})  # their only row is gone
    held.close()
    found = world.stored("v2", f"{VIDEO}v2", "u1")
    assert found["v2"] is None
    assert found[f"{VIDEO}v2"] is not None
    assert found["u1"] is not None
    new, expected = [("u0", "v2", 1.0, 2.0)], Simulation(ROWS)
    assert world.update(world.write(new, "b.parquet")) == 0
    check(world, expected.embeddings(*expected.see(new)))


def test_an_update_after_an_erasure_of_the_store_alone_leaves_kept_rows_out(world):
    expected = Simulation(ROWS)
    open_store(world.store).erase(["u2"])
    expected.forget("u2")
    new = [("u0", "v2", 1.0, 2.0)]
    assert world.update(world.write(new, "a.parquet")) == 0
    check(world, expected.embeddings(*expected.see(new)))
