"""Dead letters of streams are safe beside an erasure."""

from limaml_beam.io.folder_lock import UPDATE, is_held
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
