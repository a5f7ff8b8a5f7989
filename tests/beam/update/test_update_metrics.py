"""What Prometheus sees of updates and streams."""

import json
import urllib.request

import pytest
from ports import free_port

from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.metrics import serving_metrics
from limaml_beam.update.stream import Stream, stream
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store import open_store

REPORT = {
    "rows": {"read": 5, "used": 3, "skipped": {"label": 2}},
    **{"tasks": 2, "left_window": 0, "upserted": 2, "dead_letters": 2, "seconds": 0.1},
    **{"filled": {"x": 3, "y": 1}, "unreadable": {"x": 2}, "unknown_keys": {"items": 1}},
    "lag_seconds": {"p50": 1.5, "p99": 4.0},
}


def _metrics(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_stream_answers_with_what_it_has_done_and_whether_it_waits():
    told = []
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        url = told[0]["metrics"]
        tell(REPORT)
        tell({"files": 1, **REPORT, "lag_seconds": None})
        done = _metrics(url)
        tell({"waiting": "the store is unavailable", "seconds": 1.0})
        waiting = _metrics(url)
    assert told[1:] == [
        REPORT,
        {"files": 1, **REPORT, "lag_seconds": None},
        {"waiting": "the store is unavailable", "seconds": 1.0},
    ]
    totals = {
        'limaml_stream_rows_total{state="read"}': 10,
        'limaml_stream_rows_total{state="used"}': 6,
        'limaml_stream_lag_seconds{quantile="0.99"}': 4,
        **{"limaml_stream_updates_total": 2, "limaml_stream_tasks_total": 4},
        **{"limaml_stream_embeddings_total": 4, "limaml_stream_dead_letters_total": 4},
        **{"limaml_stream_waiting": 0, "limaml_stream_waits_total": 0},
        **{"limaml_stream_values_filled_total": 8, "limaml_stream_values_unreadable_total": 4},
        "limaml_stream_unknown_keys_total": 2,
    }
    assert {name: float(done[name]) for name in totals} == totals
    assert float(done["limaml_stream_last_update_timestamp_seconds"]) > 1.7e9
    assert [waiting[f"limaml_stream_{name}"] for name in ("waiting", "waits_total")] == [
        "1.0",
        "1.0",
    ]
    with pytest.raises(OSError, match="refused"):
        _metrics(url)


def test_an_update_without_a_new_row_leaves_the_time_of_the_last_one_as_it_is():
    name, told = "limaml_stream_last_update_timestamp_seconds", []
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        url = told[0]["metrics"]
        tell(REPORT | {"rows": {"read": 2, "used": 0, "skipped": {"duplicate": 2}}})
        tell(REPORT | {"rows": {"read": 0, "used": 0, "skipped": {}}, "left_window": 2})
        before, updates = _metrics(url)[name], _metrics(url)["limaml_stream_updates_total"]
        tell(REPORT)
        after = _metrics(url)[name]
    assert (before, updates) == ("0.0", "2.0")
    assert float(after) > 1.7e9


def test_an_error_of_the_broker_is_counted_and_ends_no_wait():
    told = []
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        tell({"broker": "all brokers are down"})
        first = _metrics(told[0]["metrics"])
        tell({"waiting": "the store is unavailable", "seconds": 1.0})
        tell({"broker": "all brokers are down"})
        second = _metrics(told[0]["metrics"])
    assert told[1] == {"broker": "all brokers are down"}
    names = [f"limaml_stream_{name}" for name in ("broker_errors_total", "waiting")]
    assert [[seen[name] for name in names] for seen in (first, second)] == [
        ["1.0", "0.0"],
        ["2.0", "1.0"],
    ]


def _quiet_stream(world, tell, sleep=lambda seconds: None):
    (world.folder / "in").mkdir(exist_ok=True)
    update = Update(
        **{"work": world.work, "store": open_store(world.store)},
        **{"window_end": "2022-06-01", "expire_seconds": 1e-9},
    )
    return stream(Stream(folder=world.folder / "in", update=update, idle_seconds=0.0), tell, sleep)


def test_a_quiet_stream_that_has_waited_does_not_say_that_it_waits(refreshed, monkeypatch):
    original, told, while_waiting = Updater.update_due, [], []

    def away_once(updater):
        if not while_waiting:
            raise StoreError("connection refused")
        return original(updater)

    monkeypatch.setattr(Updater, "update_due", away_once)
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        url = told[0]["metrics"]
        done = _quiet_stream(refreshed, tell, lambda seconds: while_waiting.append(_metrics(url)))
        after = _metrics(url)
    assert (done["waits"], done["updates"]) == (1, 0)
    assert while_waiting[0]["limaml_stream_waiting"] == "1.0"
    assert (after["limaml_stream_waiting"], after["limaml_stream_waits_total"]) == ("0.0", "1.0")
    assert [next(iter(report)) for report in told] == ["metrics", "waiting", "waited"]


def test_a_file_of_an_unknown_format_counts_as_a_dead_letter(refreshed):
    (refreshed.folder / "in").mkdir()
    (refreshed.folder / "in" / "b.docx").write_bytes(b"what?")
    told = []
    with serving_metrics(told.append, "127.0.0.1", 0) as tell:
        assert _quiet_stream(refreshed, tell)["dead_letters"] == 1
        seen = _metrics(told[0]["metrics"])
    assert seen["limaml_stream_dead_letters_total"] == "1.0"
    assert told[1]["refused_file"].endswith("b.docx")
    assert "b.docx" in told[1]["reason"]


def test_without_a_port_nothing_listens_and_a_port_that_cannot_be_used_is_named():
    told = []
    with serving_metrics(told.append, "127.0.0.1", None) as tell:
        tell(REPORT)
    assert told == [REPORT]
    for port in (70_000, -1):
        with (
            pytest.raises(LimamlError, match=f"127.0.0.1:{port}: .*choose another --metrics-port"),
            serving_metrics(told.append, "127.0.0.1", port),
        ):
            pass


def test_the_commands_write_and_serve_them(refreshed, capsys):
    (refreshed.folder / "in").mkdir()
    refreshed.write([("u3", 5.0, 1)], "in/a.parquet")
    refreshed.write([("u4", 6.0, 1)], "b.parquet")
    shared = ["--work", str(refreshed.work), "--store", refreshed.store]
    shared += ["--window-end", "2022-06-01"]
    port = str(free_port())
    stream = ["stream", "--from-folder", str(refreshed.folder / "in"), "--stop-when-idle", "0"]
    assert main([*stream, *shared, "--metrics-port", port, "--json"]) == 0
    first, report = map(json.loads, capsys.readouterr().err.splitlines()[:2])
    assert (first["metrics"], report["upserted"]) == (f"http://127.0.0.1:{port}/metrics", 1)
    metrics, written = refreshed.folder / "update.prom", refreshed.folder / "update.json"
    update = ["update", str(refreshed.folder / "b.parquet"), *shared, "--report", str(written)]
    assert main([*update, "--metrics-file", str(metrics), "--json"]) == 0
    lines = metrics.read_text().splitlines()
    for line in (
        'limaml_run_success{command="update"} 1.0',
        'limaml_run_rows{command="update",state="used"} 1.0',
        'limaml_run_tasks{command="update",state="upserted"} 1.0',
    ):
        assert line in lines
    assert any(line.startswith('limaml_run_lag_seconds{command="update",quant') for line in lines)
    report = json.loads(written.read_text())
    assert (report["outcome"], report["upserted"]) == ("done", 1)


def test_a_first_update_beside_another_writes_no_metrics_of_a_failure(refreshed):
    metrics = refreshed.folder / "update.prom"
    with exclusive(refreshed.work, UPDATE):
        assert refreshed.update("a.parquet", more=("--metrics-file", str(metrics))) == 2
    assert not metrics.exists()


@pytest.mark.parametrize(
    ("busy", "outcome", "stage", "success"),
    [(False, "failed", "start", "0.0"), (True, "refused", "lock", "1.0")],
)
def test_an_update_without_its_work_folder_fails_and_one_beside_another_is_only_refused(
    refreshed, busy, outcome, stage, success
):
    metrics, written = refreshed.folder / "update.prom", refreshed.folder / "update.json"
    files = ("--metrics-file", str(metrics), "--report", str(written))
    assert refreshed.update(refreshed.write([("u3", 5.0, 1)], "a.parquet"), more=files) == 0
    if busy:
        with exclusive(refreshed.work, UPDATE):
            assert refreshed.update("a.parquet", more=files) == 2
    else:
        refreshed.work.rename(refreshed.folder / "elsewhere")
        assert refreshed.update("a.parquet", more=files) == 2
    report = json.loads(written.read_text())
    assert (report["outcome"], report["stage"]) == (outcome, stage)
    lines = metrics.read_text().splitlines()
    assert f'limaml_run_success{{command="update"}} {success}' in lines
    assert any(line.startswith("limaml_run_last_locked_") for line in lines) is busy
