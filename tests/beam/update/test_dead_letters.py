"""Dead letters of updates: written beside an erasure, and removed when they are too old."""

import datetime as dt
import types

from limaml_beam.io.folder_lock import UPDATE, is_held
from limaml_beam.update import dead_letters
from limaml_beam.update import stream as stream_module
from limaml_beam.update.job import Update
from limaml_beam.update.stream import Stream, stream
from tfrec_limaml.store import open_store


def test_a_letter_about_a_file_is_written_under_the_lock_of_updates(refreshed, monkeypatch):
    """An erasure rewrites the day's letters under that lock."""
    held, write = [], stream_module.write_letters

    def write_letters(work, letters):
        held.append(is_held(work, UPDATE))
        write(work, letters)

    monkeypatch.setattr(stream_module, "write_letters", write_letters)
    folder = refreshed.folder / "in"
    folder.mkdir()
    (folder / "notes.docx").write_text("no interactions")
    update = Update(work=refreshed.work, store=open_store(refreshed.store))
    settings = Stream(folder=folder, update=update, idle_seconds=0.0)
    assert stream(settings, [].append, lambda seconds: None)["dead_letters"] == 1
    assert held == [True]


def test_letters_are_removed_once_the_whole_of_their_day_is_too_old(tmp_path, monkeypatch):
    class Clock(dt.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(2022, 6, 30, 12, tzinfo=zone)

    clock = types.SimpleNamespace(datetime=Clock, timedelta=dt.timedelta, UTC=dt.UTC)
    monkeypatch.setattr(dead_letters, "dt", clock)
    folder = tmp_path / "updates" / "dead_letter"
    dead_letters.write_letters(tmp_path, ["{}"])
    for name in ("20220530", "20220531", "notes"):  # the 31st ended 29.5 days ago
        (folder / f"{name}.jsonl").write_text("{}\n")
    assert dead_letters.remove_letters(tmp_path, 30) == 1
    remaining = sorted(file.stem for file in folder.iterdir())
    assert remaining == ["20220531", "20220630", "notes"]
