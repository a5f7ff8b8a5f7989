"""Updates beside refreshes that publish, are refused, or are rolled back."""

import json
import time

import numpy as np
from update_world import ROWS, after

from limaml_beam.update import job
from limaml_beam.update.state import state_folder
from tfrec_limaml.manifest import read_digest
from tfrec_limaml.store import open_store
from tfrec_limaml.store.lmdb_store import LmdbStore


def test_a_generation_that_is_published_during_an_update_takes_its_embeddings(
    refreshed, monkeypatch
):
    original, calls = LmdbStore.upsert, []
    plan = refreshed.work / "tasks" / "update.json"
    content = json.loads(plan.read_text())  # as of a refresh that publishes
    plan.write_text(
        json.dumps({**content, "generation": "next", "replaced": content["generation"]})
    )

    def late(store, version, generation, *arguments):
        if not calls:
            with store.new_generation(7, 3, "next") as writer:
                writer.put(["u3"], np.zeros((1, 3), np.float32))
                writer.publish(1, lambda keys: np.zeros(len(keys), np.int64))
        calls.append(generation)
        return original(store, version, generation, *arguments)

    monkeypatch.setattr(LmdbStore, "upsert", late)
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet")) == 0
    assert calls == [content["generation"], "next"]
    assert refreshed.sums("u3") == [(6, 2)]


def test_a_refused_refresh_changes_nothing_for_updates(refreshed, capsys):
    refreshed.write([(f"u{n}", -9.0, n / 100) for n in range(30)])
    assert refreshed.refresh("--min-count-ratio", "0.9") == 2
    assert (refreshed.work / "tasks.next").is_dir()
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet")) == 0
    assert refreshed.sums("u3") == [(6, 2)]
    refreshed.write(ROWS)
    assert refreshed.refresh() == 0
    assert not (refreshed.work / "tasks.next").exists()


def test_after_a_rollback_updates_wait_for_a_refresh(refreshed, capsys):
    first = open_store(refreshed.store).current(7).identifier
    refreshed.write([(f"u{n}", -9.0, n / 100) for n in range(40)])
    assert refreshed.refresh("--max-drift", "1e9") == 0
    assert open_store(refreshed.store).rollback(7).identifier == first
    new = refreshed.write([("u3", 5.0, 1)], "a.parquet")
    assert refreshed.update(new) == 2
    error = capsys.readouterr().err
    assert f"but {first!r} is current in this store: was it rolled back" in error
    assert refreshed.sums("u3") == [(1, 1)]
    refreshed.write(ROWS)
    assert refreshed.refresh() == 0
    assert refreshed.update(new) == 0
    assert refreshed.sums("u3") == [(6, 2)]


def test_another_store_is_refused_and_the_rows_are_not_used_up(refreshed, tmp_path, capsys):
    with open_store(f"lmdb:{tmp_path}/other").new_generation(7, 3) as writer:
        writer.put(["u3"], np.zeros((1, 3), np.float32))
        writer.publish(1)
    new = refreshed.write([("u3", 5.0, 1)], "a.parquet")
    right, refreshed.store = refreshed.store, f"lmdb:{tmp_path}/other"
    assert refreshed.update(new) == 2
    assert "or is it another store? Nothing was read" in capsys.readouterr().err
    refreshed.store = right
    assert refreshed.update(new) == 0
    assert refreshed.sums("u3") == [(6, 2)]


def test_the_window_begins_where_it_does_without_clock_skew(refreshed):
    assert refreshed.refresh("--window-days", "100000") == 0
    settings = job.Update(
        work=refreshed.work, store=open_store(refreshed.store), clock_skew_seconds=7200.0
    )
    dates = job.Updater(settings)._task_settings()
    now = time.time() * 1000
    assert abs(dates.last - now - 7_200_000) < 60_000
    assert abs(dates.recent_start - now + 100_000 * 86_400_000) < 60_000


def test_a_state_that_a_full_disk_left_unfinished_is_made_again(refreshed):
    folder = state_folder(refreshed.work)
    folder.mkdir(parents=True)
    (folder / "data.mdb").write_bytes(bytes(4096))
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet")) == 0
    assert refreshed.sums("u3") == [(6, 2)]


def test_an_input_that_stands_still_is_refused_however_often_it_is_refreshed(refreshed):
    assert refreshed.refresh("--window-end", after(1)) == 0
    for days, code in ((1.6, 0), (2.2, 2), (2.2, 2)):
        assert refreshed.refresh("--window-end", after(days)) == code
    assert refreshed.refresh("--window-end", after(2.2), "--max-age-increase-days", "2") == 0


def test_a_generation_of_another_model_with_the_same_number_is_not_updated(refreshed, capsys):
    store, adapter = open_store(refreshed.store), refreshed.export / "adapter" / "7"
    assert store.current(7).model == read_digest(adapter)
    with store.new_generation(7, 3, "zz", "another") as writer:
        writer.put(["u3"], np.zeros((1, 3), np.float32))
        writer.publish(1)
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet")) == 2
    assert "was made by another model with the same version number, 7" in capsys.readouterr().err
