"""The whole loop in one go, as a user runs it: the demo, its report, its continuation, and what
gRPC answers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from graphs import without_graphs

from tfrec_limaml.cli import main
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import SCHEMA_FILE

MEMBERS = 60


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, serving_here):
    """A small demo, made once; `live_demo` serves in a process."""
    root = tmp_path_factory.mktemp("demo") / "run"
    command = ["demo", "--workspace", root, "--members", MEMBERS, "--epochs", 1, "--json"]
    with without_graphs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfrec_limaml.demo.serving.serving", serving_here)
        assert main([*map(str, command)]) == 0
    return root


@pytest.mark.slow
def test_the_demo_writes_every_output_of_the_loop(workspace):
    state = json.loads((workspace / "demo.json").read_text())
    assert list(state["stages"]) == [
        "data",
        "prepare",
        "train_vanilla",
        "train_limaml",
        "evaluate",
        "export",
        "embed",
    ]
    for name in (
        "raw/schema.yaml",
        "tasks/statistics.json",
        "model/limaml.keras",
        "model/evaluation.json",
        "export/ranker/1",
        "report.html",
    ):
        assert (workspace / name).exists(), name
    page = (workspace / "report.html").read_text(encoding="utf-8")
    for heading in (
        "Learning curves",
        "AUC by length of history",
        "Map of the meta embeddings",
        "before and after a few clicks",
    ):
        assert heading in page


@pytest.mark.slow
def test_a_second_run_does_nothing_twice_and_ends_with_the_same_table(
    workspace, run_limaml, monkeypatch
):
    monkeypatch.setattr("tfrec_limaml.demo.serving.serving", None)  # the list is known
    models = {path: path.stat().st_mtime_ns for path in (workspace / "model").iterdir()}
    result = run_limaml("demo", "--workspace", workspace, "--members", MEMBERS, "--epochs", 1)
    assert {path: path.stat().st_mtime_ns for path in (workspace / "model").iterdir()} == models
    assert {(row["algorithm"], row["fine_tune"]) for row in result["auc"]} >= {
        ("vanilla", False),
        ("limaml", False),
        ("limaml", True),
    }
    assert result["embeddings"]["count"] > 0.8 * MEMBERS
    scores = np.array(
        [[c["without"], c["before"], c["after"]] for c in result["ranking"]["candidates"]]
    )
    assert ((scores > 0) & (scores < 1)).all()
    assert (
        np.abs(np.diff(scores, axis=1)).max(axis=0) > 1e-4
    ).all()  # each embedding makes a difference


@pytest.mark.slow
def test_an_interrupted_stage_and_what_follows_it_are_made_again(
    workspace, run_limaml, serving_here, monkeypatch
):
    monkeypatch.setattr("tfrec_limaml.demo.serving.serving", serving_here)
    outputs = [workspace / name for name in ("model/evaluation.json", "export", "embeddings")]
    before = [path.stat().st_mtime_ns for path in outputs]
    shutil.rmtree(workspace / "export")
    state = json.loads((workspace / "demo.json").read_text())
    state["story"]["seen"] = -1
    (workspace / "demo.json").write_text(json.dumps(state))
    with without_graphs():
        run_limaml("demo", "--workspace", workspace, "--members", MEMBERS, "--epochs", 1)
    state = json.loads((workspace / "demo.json").read_text())
    evaluated, exported, embedded = (path.stat().st_mtime_ns for path in outputs)
    assert evaluated == before[0]
    assert exported > before[1]
    assert embedded > before[2]
    assert set(state["stages"]) >= {"evaluate", "export", "embed"}
    assert state["story"]["seen"] > 0


@pytest.mark.slow
def test_the_score_over_grpc_is_what_the_model_predicts_with_the_same_embedding(
    workspace, serving_here
):
    import keras
    import tensorflow as tf

    import tfrec_limaml.models  # noqa: F401  registers the classes
    from tfrec_limaml.demo import serving
    from tfrec_limaml.demo.history import read_history
    from tfrec_limaml.demo.stages import Workspace
    from tfrec_limaml.store import open_store

    place = Workspace(root=workspace)
    schema = Schema.load(place.tasks / SCHEMA_FILE)
    recent, test = (read_history(place.tasks, schema, split) for split in ("recent", "test"))
    task = next(
        t for t, key in enumerate(test.keys) if key in recent.keys and len(test.rows_of(t)) > 3
    )
    rows = [test.row(i) for i in test.rows_of(task)]
    meta = [f.name for f in schema.features if f.role == "meta"]
    member = {"member_id": test.keys[task], **{name: rows[0][name] for name in meta}}
    other = [f.name for f in schema.all_features if f.role == "other"]
    request = {
        "member": member,
        "candidates": [{name: row[name] for name in other} for row in rows],
    }
    store = open_store(place.store())
    embedding, found = store.get_many([test.keys[task]], 1)
    store.close()
    assert found.all()

    model = keras.saving.load_model(place.run / "limaml.keras")
    columns = {
        f.name: np.array([{**row, **member}[f.name] for row in rows]) for f in schema.all_features
    }
    encoded = model.encoder({name: tf.constant(values) for name, values in columns.items()})
    stored = tf.constant(np.repeat(embedding, len(rows), axis=0))
    known = tf.ones([len(rows), 1], bool)
    rows_embedding = model.meta_block.from_stored(stored, known, model.meta_block(encoded))
    adapted = model.global_block(encoded, rows_embedding)
    unadapted = model(encoded)  # probabilities

    with serving_here(place.export / "ranker") as target:
        with serving.ranking(target, place.export, place.store(), place.root / "log") as rank:
            scores, used = rank(request)
        absent = place.store("deleted")
        with serving.ranking(target, place.export, absent, place.root / "log") as rank:
            fallback, used_without = rank(request)
    assert (used, used_without) == (True, False)
    np.testing.assert_allclose(scores, tf.sigmoid(adapted).numpy(), atol=1e-5)
    np.testing.assert_allclose(fallback, unadapted.numpy(), atol=1e-5)
    assert np.abs(scores - fallback).max() > 1e-4


@pytest.mark.slow
def test_a_server_that_cannot_start_is_one_readable_error(tmp_path):
    from tfrec_limaml.demo import serving
    from tfrec_limaml.errors import LimamlError

    with (
        pytest.raises(LimamlError, match=r"did not start: .*no directory at"),
        serving.serving(tmp_path / "absent"),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--workspace", "{folder}"], "is not empty and does not hold an earlier demo"),
        (["--workspace", "{folder}/new", "--data-dir", "x"], "--data-dir x is for kuairand-pure"),
        (
            ["--workspace", "{folder}/new", "--dataset", "kuairand-pure", "--members", "9"],
            "--members 9 is for the simulated world",
        ),
    ],
)
def test_bad_arguments_of_the_demo_are_one_line_and_change_nothing(
    arguments, reason, tmp_path, capsys
):
    (tmp_path / "precious.txt").write_text("keep me")
    assert main(["demo", *(a.format(folder=tmp_path) for a in arguments)]) == 2
    assert reason in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_workspace_of_other_settings_is_refused_and_overwrite_forgets_it(tmp_path):
    from tfrec_limaml.demo.stages import Workspace
    from tfrec_limaml.errors import LimamlError

    place = Workspace(root=tmp_path / "demo")
    state = place.open({"dataset": "simulated"}, overwrite=False)
    place.save({**state, "stages": {"data": {}}})
    with pytest.raises(LimamlError, match="pass --overwrite"):
        place.open({"dataset": "kuairand-pure"}, overwrite=False)
    assert place.open({"dataset": "simulated"}, overwrite=False)["stages"] == {"data": {}}
    assert place.open({"dataset": "kuairand-pure"}, overwrite=True)["stages"] == {}


@pytest.fixture(scope="module")
def live_demo(workspace):
    """Runs ``limaml demo --live`` on a finished demo; gives the page's address."""
    command = ["demo", "--workspace", workspace, "--members", MEMBERS, "--epochs", 1, "--live"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfrec_limaml", *map(str, command), "--port", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if match := re.search(r"list is at (\S+)", line):
                break
        assert match, "".join(said)
        yield match.group(1)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0  # it ended by itself, and with it the processes that it started


def click(address, candidate):
    request = urllib.request.Request(
        f"{address}click",
        json.dumps({"candidate": candidate}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_in_the_live_demo_a_click_changes_the_list(live_demo):
    state = json.loads(urllib.request.urlopen(f"{live_demo}state", timeout=60).read())
    last = state["ranked"][-1]
    for number in range(1, 4):
        after = click(live_demo, last["candidate"])
        assert after["clicks"][-1]["lag_seconds"] is not None
        assert len(after["clicks"]) == number
    (now,) = (row for row in after["ranked"] if row["candidate"] == last["candidate"])
    assert now["probability"] > last["probability"]


@pytest.mark.slow
def test_a_person_clicks_in_a_browser_and_sees_the_list_and_the_lag(live_demo):
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(live_demo)
        page.wait_for_selector("li")
        before = page.locator("li .change").all_text_contents()
        assert len(before) == 10
        page.locator("li").nth(9).locator("button.click").click()
        page.wait_for_function("document.getElementById('lag').textContent.includes('changed')")
        assert re.search(r"after \d+\.\d\d s", page.locator("#lag").text_content())
        assert page.locator("li .change").all_text_contents() != before
        assert page.locator("button:disabled").count() == 0
        assert not errors
        browser.close()
