"""``limaml stream``: files that arrive, through faults, without loss and without doubles."""

import functools
import json
import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing import test_stream as stream_of_tests
from update_world import ROWS, after

from limaml_beam.update import pipeline
from limaml_beam.update import stream as stream_module
from limaml_beam.update.job import Update, UpdateState
from limaml_beam.update.pipeline import ByMember
from limaml_beam.update.stream import Stream, stream
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store import open_store
from tfrec_limaml.store.lmdb_store import LmdbStore

KAFKA = ("--from-kafka", "127.0.0.1:9092", "--topic", "clicks")


@pytest.fixture
def arriving(refreshed):
    """A refreshed world with a folder for files."""
    (refreshed.folder / "in").mkdir()
    return refreshed


def settings(world, window_end="2022-06-01", expire_seconds=60.0, **more):
    update = Update(
        work=world.work,
        store=open_store(world.store),
        window_end=window_end,
        expire_seconds=expire_seconds,
    )
    return Stream(folder=world.folder / "in", update=update, idle_seconds=0.0, **more)


def sums(world, *keys):
    matrix, found = open_store(world.store).get_many(keys, 7)
    assert found.all()
    return [float(row[1]) for row in matrix]


def test_files_that_arrive_are_used_once_in_the_order_they_came(arriving):
    reports = []
    arriving.write([("u3", 5.0, 1)], "in/a.parquet")
    arriving.write([("u4", 6.0, 1)], "in/.hidden.parquet")

    def sleep(seconds):
        pass

    done = stream(settings(arriving), reports.append, sleep)
    assert (done["updates"], done["files"], done["upserted"]) == (1, 1, 1)
    assert sums(arriving, "u3", "u4") == [6, 1]
    (arriving.folder / "in" / ".hidden.parquet").rename(arriving.folder / "in" / "b.parquet")
    done = stream(settings(arriving), reports.append, sleep)
    assert (done["files"], sums(arriving, "u3", "u4")) == (1, [6, 7])
    assert stream(settings(arriving), reports.append, sleep)["files"] == 0
    assert [report["files"] for report in reports] == [1, 1]


def test_while_the_store_is_away_the_stream_waits_longer_and_longer_and_loses_nothing(
    arriving, monkeypatch
):
    arriving.write([("u3", 5.0, 1)], "in/a.parquet")
    original, waits, reports = LmdbStore.upsert, [], []

    def away(*arguments):
        if len(waits) < 8:
            raise StoreError("connection refused")
        return original(*arguments)

    monkeypatch.setattr(LmdbStore, "upsert", away)
    done = stream(settings(arriving), reports.append, waits.append)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (done["waits"], done["upserted"]) == (8, 1)
    assert "connection refused" in reports[0]["waiting"]
    assert sums(arriving, "u3") == [6]


def test_a_file_that_is_removed_while_the_stream_waits_does_not_end_it(arriving, monkeypatch):
    paths = [arriving.write([(user, 5.0, 1)], f"in/{user}.parquet") for user in ("u3", "u4")]
    original = LmdbStore.upsert

    def away_once(*arguments):
        monkeypatch.setattr(LmdbStore, "upsert", original)
        raise StoreError("connection refused")

    monkeypatch.setattr(LmdbStore, "upsert", away_once)
    reports = []
    done = stream(settings(arriving), reports.append, lambda seconds: os.remove(paths[0]))
    assert (done["waits"], done["files"], done["upserted"]) == (1, 1, 1)
    assert sums(arriving, "u3", "u4") == [1, 6]

    monkeypatch.setattr(LmdbStore, "upsert", away_once)
    path = arriving.write([("u5", 5.0, 1)], "in/u5.parquet")
    done = stream(settings(arriving), reports.append, lambda seconds: os.remove(path))
    assert (done["waits"], done["files"], done["upserted"]) == (1, 0, 0)


def test_a_file_that_is_removed_while_the_folder_is_listed_does_not_end_the_stream(
    arriving, monkeypatch
):
    arriving.write([("u3", 5.0, 1)], "in/a.parquet")
    listed = stream_module._listed

    def removed_afterwards(folder):
        files = listed(folder)
        for path in folder.iterdir():
            path.unlink()
        return files

    monkeypatch.setattr(stream_module, "_listed", removed_afterwards)
    assert stream(settings(arriving), lambda report: None)["files"] == 0
    (arriving.folder / "in" / "gone").symlink_to("nowhere")  # as between the name and its size
    assert listed(arriving.folder / "in") == []


def test_done_files_that_are_removed_leave_the_list_of_done_files(arriving):
    marks = arriving.work / "updates" / "done.jsonl"
    for name in "ab":
        arriving.write([("u3", 5.0, 1)], f"in/{name}.parquet")
    assert stream(settings(arriving), lambda report: None)["files"] == 2
    (arriving.folder / "in" / "a.parquet").unlink()
    assert stream(settings(arriving), lambda report: None)["files"] == 0
    assert [json.loads(line)[0] for line in marks.read_text().splitlines()] == ["b.parquet"]
    before = marks.stat()
    assert stream(settings(arriving), lambda report: None)["files"] == 0
    assert marks.stat() == before  # not written again


def test_dead_letters_are_on_the_disk_before_their_file_is_done(arriving, monkeypatch):
    arriving.write([("u3", 5.0, 60)], "in/a.parquet")  # later than now
    synced, fsync = [], os.fsync

    def noting(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.suffix == ".jsonl":
            synced.append((path.name, path.read_text().count("\n")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    assert stream(settings(arriving), lambda report: None)["dead_letters"] == 1
    names = [path.name for path in (arriving.work / "updates" / "dead_letter").iterdir()]
    assert synced == [(*names, 1), ("done.jsonl", 1)]


def test_poison_files_are_dead_letters_and_hold_nothing_up(arriving):
    folder = arriving.folder / "in"
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    (folder / "b.docx").write_bytes(b"what?")
    (folder / "c.parquet").write_bytes(b"")
    arriving.write([("u3", 5.0, 1)], "in/d.parquet")
    done = stream(settings(arriving, files_per_update=1), lambda report: None)
    assert (done["dead_letters"], done["upserted"]) == (2, 1)
    assert sums(arriving, "u3") == [6]
    (file,) = (arriving.work / "updates" / "dead_letter").glob("*.jsonl")
    letters = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(letter["file"].rsplit("/", 1)[-1] for letter in letters) == [
        "a.parquet",
        "b.docx",
    ]


def test_a_stream_that_is_killed_before_it_noted_a_file_applies_nothing_twice(
    arriving, monkeypatch
):
    class Killed(BaseException):
        pass

    def die(*arguments):
        raise Killed

    arriving.write([("u3", 5.0, 1)], "in/a.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(UpdateState, "close", die)
        with pytest.raises(Killed):
            stream(settings(arriving), lambda report: None)
    assert sums(arriving, "u3") == [6]
    (arriving.work / "updates" / "done.jsonl").write_text("[half")
    done = stream(settings(arriving), lambda report: None)
    assert (done["files"], done["upserted"], sums(arriving, "u3")) == (1, 0, [6])
    assert stream(settings(arriving), lambda report: None)["files"] == 0


def test_the_command_ends_when_nothing_comes(arriving, capsys):
    arriving.write([("u3", 5.0, 1)], "in/a.parquet")
    command = [
        *("stream", "--from-folder", str(arriving.folder / "in"), "--work", str(arriving.work)),
        *("--store", arriving.store, "--window-end", "2022-06-01", "--poll-seconds", "0.1"),
    ]
    capsys.readouterr()
    assert main([*command, "--stop-when-idle", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["upserted"] == 1
    assert sums(arriving, "u3") == [6]


def test_rows_that_leave_the_window_leave_the_embeddings_of_updated_members_without_a_click(
    arriving,
):
    window = ("--window-days", "3", "--window-end")
    assert arriving.refresh(*window, after(3)) == 0
    new = [("u3", 5.0, 1), ("u9", 6.0, 1), ("gone", 1.0, 0.01)]
    arriving.write(new, "in/a.parquet")
    reports = []
    stream(settings(arriving, window_end=after(3)), reports.append)
    assert sums(arriving, "u1", "u3", "u9", "gone") == [1, 6, 7, 1]
    later = after(3.05)  # without the rows of u0 to u4, and of "gone"
    stream(settings(arriving, window_end=later), reports.append)
    assert sums(arriving, "u3") == [6]  # no time to look again yet
    stream(settings(arriving, window_end=later, expire_seconds=1e-9), reports.append)
    assert sums(arriving, "u1", "u3", "u9", "gone") == [1, 5, 7, 1]
    assert [(each["tasks"], each["left_window"]) for each in reports] == [(3, 0), (1, 2)]
    arriving.write([*ROWS, *new])
    assert arriving.refresh(*window, later, "--min-rows-per-day-ratio", "0") == 0
    report = json.loads((arriving.work / "refresh.json").read_text())["updates"]
    assert (report["compared"], report["reconciled_share"]) == (2, 1.0)
    assert sums(arriving, "u3", "u9") == [5, 7]


def test_a_later_update_adapts_whoever_lost_rows_as_well(arriving):
    window = ("--window-days", "3", "--window-end")
    assert arriving.refresh(*window, after(3)) == 0
    for name, days in (("a", 3.0), ("b", 3.05)):
        new = arriving.write([("u3" if name == "a" else "u9", 5.0, 1)], f"in/{name}.parquet")
        assert arriving.update(new, more=("--window-end", after(days))) == 0
    assert sums(arriving, "u3", "u9") == [5, 6]


def test_the_pipeline_looks_again_and_again_for_members_who_lost_rows(arriving, monkeypatch):
    looks, batches, counted = [], [], dict.fromkeys(("tasks", "upserted", "dead_letters"), 0)
    counted |= {name: {} for name in ("filled", "unreadable", "unknown_keys")}
    monkeypatch.setattr(pipeline.time, "time", lambda: 10.0 * len(looks))  # as the test stream's
    patch = functools.partial(monkeypatch.setattr, pipeline.PatientUpdater)
    patch("run_idle", lambda self: looks.append(len(batches)))
    patch("run", lambda self, update: batches.append(update) or counted)
    messages = stream_of_tests.TestStream().add_elements([("", [b"{}"])])
    for _ in range(3):
        messages = messages.advance_processing_time(10)
    update = {"work": str(arriving.work), "expire_seconds": 10.0}
    with beam.Pipeline(runner="BundleBasedDirectRunner") as running:
        read = running | messages.advance_watermark_to_infinity()
        keyed = read | beam.Map(lambda batch: batch).with_output_types(tuple[str, list[bytes]])
        keyed | beam.ParDo(pipeline.UpdateStore("clicks", arriving.store, update))
    assert (len(batches), looks) == (1, [1, 1, 1])


def test_a_folder_that_is_not_there_is_an_error(arriving):
    (arriving.folder / "in").rmdir()
    with pytest.raises(LimamlError, match="create it first"):
        settings(arriving)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from-kafka", "127.0.0.1:9092"], "--from-kafka needs --topic"),
        (["--from-folder", "in", "--as-pipeline"], "--as-pipeline needs --from-kafka"),
        ([*KAFKA, "--as-pipeline", "--stop-when-idle", "1"], "leave out --stop-when-idle"),
        ([*KAFKA, "--as-pipeline", "--batch-messages", "0"], "batch_messages at least 1"),
        ([*KAFKA, "--batch-seconds", "nan"], "batch_seconds must be positive"),
        (["--from-folder", "in", "--poll-seconds", "nan"], "poll_seconds must be positive"),
        (["--from-folder", "in", "--stop-when-idle", "nan"], "must not be negative, received nan"),
        ([*KAFKA, "--stop-when-idle", "-1"], "(--stop-when-idle) must not be negative"),
        ([*KAFKA, "--clock-skew-seconds", "nan"], "clock_skew_seconds must not be negative"),
        ([*KAFKA, "--clock-skew-seconds", "-1"], "clock_skew_seconds must not be negative"),
        ([*KAFKA, "--expire-seconds", "0"], "expire_seconds must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, capsys, options, said):
    command = ["stream", *options, "--work", str(tmp_path), "--store", f"lmdb:{tmp_path}/store"]
    assert main(command) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"a": 17, "b": "x|y"}', "17|x%7Cy"),
        (b'{"a": 17.0, "b": "x"}', "17|x"),
        (b'{"a": 17}', ""),
        (b'{"a": null, "b": "x"}', ""),
        (b'{"a": [1], "b": "x"}', ""),
        (b"[1]", ""),
        (b"{", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (None, ""),
    ],
)
def test_the_pipeline_knows_whose_a_message_is_or_leaves_it_to_the_updater(value, key):
    assert list(ByMember(["a", "b"]).process((None, value))) == [(key, value or b"")]
