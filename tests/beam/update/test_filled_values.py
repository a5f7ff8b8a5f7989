"""Values of features that an update cannot read are filled, and counted as in a refresh."""

import collections
import json
import urllib.request
from unittest.mock import MagicMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from update_world import END, World, report

from limaml_beam.update import pipeline
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.messages import Message
from limaml_beam.update.metrics import serving_metrics
from limaml_beam.update.stream import Stream, stream
from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

#: One readable value, two that exist and cannot be read, and a blank one.
VALUES = ["5.0", "0,512", "0,6", " "]
COUNTS = {"filled": {"x": 3}, "unreadable": {"x": 2}, "unknown_keys": {}}
WARNING = (
    "2 values of x cannot be read, such as '0,512', on 2022-04-16: they became 0.0; correct the "
    "column, or its declaration"
)


@pytest.fixture
def settings(refreshed):
    store = open_store(refreshed.store)
    yield Update(work=refreshed.work, store=store, window_end=END)
    store.close()


def write(world, name):
    """A file in which the numbers of `x` are text."""
    path = world.write([(f"u{n}", 0.0, 1) for n in range(len(VALUES))], name)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("x"), "x", pa.array(VALUES)), path)
    return path


def said(result):
    return {name: result[name] for name in (*COUNTS, "warnings")}


def test_an_update_counts_values_that_it_fills_and_names_those_that_it_cannot_read(
    refreshed, capsys
):
    written = refreshed.folder / "update.json"
    capsys.readouterr()
    assert refreshed.update(write(refreshed, "a.parquet"), more=("--report", str(written))) == 0
    result = report(capsys)
    assert said(result) == said(json.loads(written.read_text())) == COUNTS | {"warnings": [WARNING]}
    assert (result["rows"]["used"], result["dead_letters"]) == (4, 0)
    assert refreshed.sums("u0", "u1") == [(6, 2), (1, 2)]


def test_the_metrics_and_the_text_of_an_update_have_the_values_that_it_fills(refreshed, capsys):
    metrics = refreshed.folder / "update.prom"
    shared = ["--work", str(refreshed.work), "--store", refreshed.store, "--window-end", END]
    path = write(refreshed, "a.parquet")
    assert main(["update", path, *shared, "--metrics-file", str(metrics)]) == 0
    assert f"  check: {WARNING}\n" in capsys.readouterr().out
    lines = metrics.read_text().splitlines()
    assert 'limaml_run_values_filled{command="update",feature="x"} 3.0' in lines
    assert 'limaml_run_values_unreadable{command="update",feature="x"} 2.0' in lines


def test_an_update_says_what_a_refresh_says_of_the_same_rows(refreshed):
    write(refreshed, "raw/interactions.parquet")
    limits = ("--min-count-ratio", "0", "--max-filled-increase", "1", "--max-lost-days", "9")
    assert refreshed.refresh(*limits, "--min-rows-per-day-ratio", "0") == 0
    card = json.loads((refreshed.work / "tasks" / "data_card.json").read_text())
    assert (card["filled"], card["unknown_keys"]) == (COUNTS["filled"], COUNTS["unknown_keys"])
    assert card["quality"]["unreadable"]["x"]["by_day"] == {"2022-04-16": 2}
    assert WARNING in refreshed.result()["warnings"]


def test_an_update_without_such_values_has_no_counts_and_no_warning(refreshed, capsys):
    capsys.readouterr()
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet")) == 0
    empty = {"filled": {}, "unreadable": {}, "unknown_keys": {}, "warnings": []}
    assert said(report(capsys)) == empty


def in_json():
    """The rows as values of messages."""
    values = [*VALUES[:3], None]
    return [json.dumps(World.row(f"u{n}", x, 1)).encode() for n, x in enumerate(values)]


def test_values_of_messages_are_counted_as_those_of_files(settings):
    messages = [Message(f"t/0/{n}", value) for n, value in enumerate(in_json())]
    assert said(Updater(settings).update_messages(messages)) == COUNTS | {"warnings": [WARNING]}


def test_a_pipeline_adds_up_the_values_that_its_updates_fill(refreshed, monkeypatch):
    counters = collections.defaultdict(MagicMock)
    metrics = MagicMock(counter=lambda namespace, name: counters[name])
    monkeypatch.setattr(pipeline, "Metrics", metrics)
    update = {"work": str(refreshed.work), "window_end": END}
    step = pipeline.UpdateStore("clicks", refreshed.store, update)
    step.setup()
    step.process(("", in_json()), MagicMock())
    step.teardown()
    numbers = {name: counter.inc.call_args.args[0] for name, counter in counters.items()}
    assert (numbers["values_filled"], numbers["values_unreadable"]) == (3, 2)
    assert (numbers["unknown_keys"], numbers["dead_letters"]) == (0, 0)


def test_a_stream_adds_up_the_values_that_its_updates_fill(refreshed, settings):
    (refreshed.folder / "in").mkdir()
    write(refreshed, "in/a.parquet")
    told = []
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        stream(Stream(folder=refreshed.folder / "in", update=settings, idle_seconds=0.0), tell)
        seen = _values(told[0]["metrics"])
    assert seen == {"values_filled_total": 3.0, "values_unreadable_total": 2.0}
    assert said(told[1]) == COUNTS | {"warnings": [WARNING]}


def _values(url):
    """The counters of values that a stream serves."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    prefix = "limaml_stream_"
    return {
        name.removeprefix(prefix): float(value)
        for name, value in samples.items()
        if name.startswith(f"{prefix}values_") and name.endswith("_total")
    }
