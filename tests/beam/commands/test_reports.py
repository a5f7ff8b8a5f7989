"""What became of a run, for machines: written for every outcome."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from limaml_beam.commands import embed as embed_command
from limaml_beam.commands import update as update_command
from limaml_beam.io.outcome import reported
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store import open_store


@pytest.fixture
def raw(tmp_path, shop_schema, shop_frames, write_raw):
    return write_raw(tmp_path / "raw", shop_schema, shop_frames(rows=150))


@pytest.mark.parametrize(
    ("arguments", "outcome", "stage", "reason"),
    [
        ([], "done", "write", None),
        (["--interactions", "none-*.csv"], "failed", "match", "no file matches"),
        (["--test-end", "2030-01-01", "--test-start", "2029-01-01"], "refused", "check", "no rows"),
    ],
)
def test_prepare_reports_how_far_it_came_and_why(raw, tmp_path, arguments, outcome, stage, reason):
    file = tmp_path / "report.json"
    file.write_text("yesterday's")
    command = ["prepare", str(raw), "--output", f"{tmp_path}/tasks", "--report", str(file)]
    code = main([*command, *arguments])
    report = json.loads(file.read_text())
    assert code == (0 if outcome == "done" else 2)
    assert (report["command"], report["outcome"], report["stage"]) == ("prepare", outcome, stage)
    assert (report["reason"] is None) if reason is None else (reason in report["reason"])
    assert ("counts" in report) == (outcome != "failed")
    assert outcome == "failed" or report["counts"]["rows_read"] == 150
    assert report["seconds"] >= 0


def samples(file):
    """Every metric of a file: name and labels but the command -> value."""
    found = {}
    for family in text_string_to_metric_families(file.read_text()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "command"}
            found[sample.name, *labels.values()] = sample.value
    return found


def test_the_metrics_of_a_failed_run_keep_the_time_of_the_last_success(raw, tmp_path):
    file = tmp_path / "limaml.prom"
    command = ["prepare", str(raw), "--output", f"{tmp_path}/tasks", "--metrics-file", str(file)]
    assert main(command) == 0
    done = samples(file)
    assert done["limaml_run_success",] == 1
    assert done["limaml_run_outcome", "done"] == 1
    assert done["limaml_run_rows", "read"] == 150
    skipped = sum(n for (name, *_), n in done.items() if name == "limaml_run_rows_skipped")
    assert done["limaml_run_rows", "used"] + skipped == 150
    assert (
        done["limaml_run_last_success_timestamp_seconds",]
        == done["limaml_run_end_timestamp_seconds",]
    )
    assert main(command) == 2  # the output exists
    failed = samples(file)
    assert failed["limaml_run_success",] == 0
    assert (failed["limaml_run_outcome", "done"], failed["limaml_run_outcome", "failed"]) == (0, 1)
    assert failed["limaml_run_stage", "match"] == 1
    assert (
        failed["limaml_run_last_success_timestamp_seconds",]
        == done["limaml_run_last_success_timestamp_seconds",]
        < failed["limaml_run_end_timestamp_seconds",]
    )
    text = file.read_text()
    assert "# HELP limaml_run_success " in text
    assert "# TYPE limaml_run_success gauge" in text
    assert [path.name for path in tmp_path.glob("limaml*")] == ["limaml.prom"]


def test_embed_writes_its_metrics_however_it_ends(tmp_path, export, write_tasks, encode):
    tasks = write_tasks([encode(f"u{n}", [n]) for n in range(20)] + [encode("", [1.0])])
    file = tmp_path / "embed.prom"
    command = [
        "embed", str(tasks), "--export", str(export), "--output", f"{tmp_path}/out",
        "--metrics-file", str(file),
    ]  # fmt: skip
    assert main([*command, "--launch-only", "--store", "lmdb:x"]) == 2
    assert samples(file)["limaml_run_outcome", "failed"] == 1
    assert main(command) == 2  # 1 of 21 is more than 1 %
    assert samples(file)["limaml_run_outcome", "refused"] == 1
    assert main([*command, "--max-bad-fraction", "0.2"]) == 0
    found = samples(file)
    assert found["limaml_run_outcome", "done"] == 1
    assert found["limaml_run_tasks", "tasks_read"] == 21
    assert found["limaml_run_tasks", "embedded"] == 20
    assert found["limaml_run_dead_letters", "unstorable_key"] == 1


@pytest.mark.parametrize("name", ["x.txt", "none/x.prom", "s3://b/x.prom"])
def test_a_metrics_file_that_nobody_would_read_is_refused(raw, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", str(raw), "--output", "tasks", "--metrics-file", name]) == 2
    assert f"received {name}" in capsys.readouterr().err


def test_a_metrics_file_that_cannot_be_written_is_refused_before_the_run(
    raw, tmp_path, monkeypatch, capsys
):
    def refuse(**place):
        raise PermissionError(1, "Operation not permitted", str(place["dir"]))

    monkeypatch.setattr("limaml_beam.io.metrics_file.tempfile.NamedTemporaryFile", refuse)
    output, metrics = tmp_path / "tasks", str(tmp_path / "x.prom")
    assert main(["prepare", str(raw), "--output", str(output), "--metrics-file", metrics]) == 2
    assert "cannot write the metrics" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("report", "reason"), [("", "it is a folder"), ("file/r.json", "file is not a folder that may")]
)
def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    raw, tmp_path, capsys, report, reason
):
    (tmp_path / "file").touch()
    output = tmp_path / "tasks"
    arguments = ["prepare", str(raw), "--output", str(output), "--report", str(tmp_path / report)]
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err
    assert not output.exists()


def test_a_report_in_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with (
        pytest.raises(LimamlError, match=r"cannot write the report .*/new/r.json: .*may be"),
        reported("prepare", [f"{tmp_path}/new/r.json"]),
    ):
        pytest.fail("the run has begun")
    assert not list(tmp_path.iterdir())


def reported_run(folder, facts, error=None):
    """A run during which its first report, ``r.json``, becomes impossible to write."""
    reports, metrics = [f"{folder}/r.json", f"{folder}/other.json"], f"{folder}/x.prom"
    with reported("refresh", reports, metrics) as report:
        report |= facts
        (folder / "r.json" / "x").mkdir(parents=True)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("facts", "done"),
    [({"published": "20260101T000000Z"}, "published 20260101T000000Z"), ({}, "the run is done")],
)
def test_a_report_that_cannot_be_written_hides_neither_the_others_nor_what_the_run_did(
    tmp_path, facts, done
):
    with pytest.raises(LimamlError, match=rf"^{done}, but cannot write the report .*r\.json: "):
        reported_run(tmp_path, facts)
    assert json.loads((tmp_path / "other.json").read_text())["outcome"] == "done"
    assert samples(tmp_path / "x.prom")["limaml_run_success",] == 1


@pytest.mark.parametrize(
    ("kind", "outcome"), [(LimamlError, "failed"), (SystemExit, "interrupted")]
)
def test_a_failed_run_writes_its_metrics_although_its_report_cannot_be_written(
    tmp_path, kind, outcome
):
    with pytest.raises(kind, match=r"^the reason$"):
        reported_run(tmp_path, {}, kind("the reason"))
    assert json.loads((tmp_path / "other.json").read_text())["outcome"] == outcome
    assert samples(tmp_path / "x.prom")["limaml_run_outcome", outcome] == 1


def test_metrics_that_cannot_be_written_after_a_publication_leave_its_name_in_the_error(
    tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr("limaml_beam.io.metrics_file.write_to_textfile", refuse)
    metrics, file = f"{tmp_path}/x.prom", tmp_path / "report.json"
    with (
        pytest.raises(LimamlError, match=r"^published g1, but cannot write the metrics .*no space"),
        reported("refresh", [str(file)], metrics) as report,
    ):
        report["published"] = "g1"
    assert json.loads(file.read_text())["published"] == "g1"


def test_embeddings_that_could_not_be_published_are_published_later_without_the_job(
    tmp_path, export, write_tasks, encode, monkeypatch, capsys
):
    tasks = write_tasks([encode(f"u{n}", [n]) for n in range(20)])
    address = f"lmdb:{tmp_path}/store"
    file = tmp_path / "report.json"
    command = [
        "embed", str(tasks), "--export", str(export), "--output", f"{tmp_path}/out",
        "--store", address, "--report", str(file),
    ]  # fmt: skip

    def unreachable(*_, **__):
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("limaml_beam.generate_embeddings.publish.publish", unreachable)
        assert main(command) == 2
    assert "repeat the command with --publish-only" in capsys.readouterr().err
    report = json.loads(file.read_text())
    assert (report["outcome"], report["stage"], report["embedded"]) == ("failed", "publish", 20)

    def no_job(*_, **__):
        raise AssertionError("nothing is to be adapted again")

    monkeypatch.setattr("limaml_beam.generate_embeddings.job.generate", no_job)
    assert main([*command, "--publish-only"]) == 0
    assert "20 embeddings of width 3" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert (report["outcome"], report["stage"]) == ("done", "publish")
    store = open_store(address)
    assert store.current(7).identifier == report["published"] == report["generation"]
    with store.new_generation(7, 3, "99991231T000000Z") as writer:
        writer.put(["u1"], np.zeros((1, 3), np.float32))
        writer.publish(1)
    store.close()
    assert main([*command, "--publish-only"]) == 2
    error = capsys.readouterr().err
    assert "99991231T000000Z is published already: run the embedding job again" in error
    assert "--publish-only" not in error


def test_embed_says_what_it_did_in_sentences(tmp_path, export, write_tasks, encode, capsys):
    records = [encode(f"u{n}", [n]) for n in range(20)] + [encode("", [1.0])]
    tasks = write_tasks(records)
    command = ["embed", str(tasks), "--export", str(export), "--output", f"{tmp_path}/out"]
    assert main([*command, "--max-bad-fraction", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "21 tasks read: 20 adapted, 0 unchanged" in out
    assert "1 dead letter: unstorable_key" in out
    assert "{" not in out


@pytest.mark.parametrize(("norm", "said"), [(0.0, True), (1e-9, False)])
def test_the_embedding_job_says_that_all_embeddings_are_zero(norm, said):
    report = {
        **{"generation": "g1", "model_version": 1, "rows": 3, "embedding_dim": 2},
        **{"tasks_read": 3, "embedded": 3, "carried": 0, "dead_letters": {}},
        "statistics": {"max_norm": norm, "loss_improvement": 0.0},
    }
    text = embed_command.render(report)
    assert ("check: all embeddings are zero: the model does not adapt" in text) == said


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, None),
        (1, "  1 left out: its rows have all left the window"),
        (2, "  2 left out: their rows have all left the window"),
    ],
)
def test_tasks_that_left_the_window_are_counted_in_a_sentence(number, line):
    report = {
        **{"generation": "g1", "model_version": 1, "rows": 3, "embedding_dim": 2},
        **{"tasks_read": 3, "embedded": 3, "carried": 0, "dead_letters": {}, "aged_out": number},
    }
    lines = [each for each in embed_command.render(report).splitlines() if "left out" in each]
    assert lines == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("lag", "line"),
    [
        (None, []),
        (
            {"p50": 0.071, "p99": 56_974_297.7},
            ["from interaction to store: median 0.071 s, 99 % 659.4 days"],
        ),
    ],
)
def test_an_update_prints_the_time_from_interaction_to_store_in_units_of_its_size(lag, line):
    report = {
        "rows": {"read": 1, "used": 1, "skipped": {}},
        **{"tasks": 1, "upserted": 1, "ignored_as_older": 0, "left_window": 0},
        **{"seconds": 1.0, "lag_seconds": lag, "warnings": []},
    }
    lines = update_command.render(report).splitlines()
    assert [each for each in lines if "interaction to store" in each] == line
