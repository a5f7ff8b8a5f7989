"""What became of a run, for machines: written for every outcome."""

from __future__ import annotations

import json

import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.errors import StoreError
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

    def unreachable(*_):
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("limaml_beam.generate_embeddings.publish.publish", unreachable)
        assert main(command) == 2
    assert "give the same command with --publish-only" in capsys.readouterr().err
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
    store.close()


def test_embed_says_what_it_did_in_sentences(tmp_path, export, write_tasks, encode, capsys):
    records = [encode(f"u{n}", [n]) for n in range(20)] + [encode("", [1.0])]
    tasks = write_tasks(records)
    command = ["embed", str(tasks), "--export", str(export), "--output", f"{tmp_path}/out"]
    assert main([*command, "--max-bad-fraction", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "21 tasks read: 20 adapted, 0 unchanged" in out
    assert "1 dead letters: unstorable_key" in out
    assert "{" not in out
