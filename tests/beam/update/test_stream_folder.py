"""The folder of ``limaml stream``: the order of its files, and its end."""

import json
import os

import pytest

from limaml_beam.update import stream as stream_module
from limaml_beam.update.job import Update
from limaml_beam.update.stream import Stream, stream
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import open_store


@pytest.fixture
def settings(refreshed):
    """``settings(...)``: a stream of the empty folder ``in`` of a refreshed world."""
    (refreshed.folder / "in").mkdir()

    def make(**more):
        update = Update(
            work=refreshed.work, store=open_store(refreshed.store), window_end="2022-06-01"
        )
        return Stream(folder=refreshed.folder / "in", update=update, **more)

    return make


def test_the_oldest_files_are_used_first(refreshed, settings, monkeypatch):
    for age, name in enumerate(["b", "c", "a"], 1):
        refreshed.write([("u3", 5.0, age)], f"in/{name}.parquet")
        os.utime(refreshed.folder / "in" / f"{name}.parquet", (10.0 - age, 10.0 - age))
    listed = stream_module._listed

    def newest_first(folder):
        return sorted(listed(folder), key=lambda file: file.mark[2], reverse=True)

    monkeypatch.setattr(stream_module, "_listed", newest_first)
    done = stream(
        settings(files_per_update=1, idle_seconds=0.0), lambda report: None, lambda seconds: None
    )
    assert done["files"] == 3
    lines = (refreshed.work / "updates" / "done.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == ["a.parquet", "c.parquet", "b.parquet"]


def test_a_folder_that_is_removed_ends_the_stream_with_its_name_and_the_remedy(refreshed, settings):
    folder = refreshed.folder / "in"
    with pytest.raises(LimamlError, match=rf"the folder {folder}, .*: create it and start"):
        stream(settings(), print, lambda seconds: folder.rmdir())
