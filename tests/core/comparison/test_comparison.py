"""The comparison with rivals: same rows, resumable, honest about what could not run."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import types

import numpy as np
import pandas as pd
import pytest

from tfrec_limaml.commands.compare import markdown
from tfrec_limaml.comparison import run as comparison
from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import History


@pytest.fixture(scope="module")
def data(tasks_folder):
    return Data.of(tasks_folder, epochs=1)


def _scorer(quality):
    """A rival whose scores are so good as `quality`."""

    def run(data, seed):
        noise = np.random.default_rng(seed).normal(size=len(data.test.label))
        scores = 1 / (1 + np.exp(-(quality * data.test.label + noise)))
        return Outcome(scores, 0.7, unadapted=np.full(len(noise), 0.4))

    return run


def test_a_comparison_runs_once_and_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    rivals = {"vanilla": _scorer(0.5), "limaml": _scorer(1.5)}
    monkeypatch.setattr(comparison, "RIVALS", {**comparison.RIVALS, **rivals})
    names = ["constant", "task-rate", "vanilla", "limaml"]
    said = []
    result = comparison.compare(data, tmp_path, [1, 2], names, said.append)
    assert len(said) == 1 + 1 + 2 + 2
    assert json.loads(json.dumps(result))["rows"] == len(data.test.label)
    by_name = {row["name"]: row for row in result["results"]}
    assert by_name["constant"]["auc_mean"] == 0.5
    assert by_name["limaml"]["seeds"] == [1, 2]
    assert by_name["limaml"]["auc_unadapted"] == 0.5
    assert by_name["vanilla"]["gain"] == by_name["vanilla"]["gain_low"] == 0

    def fail(data, seed):
        raise AssertionError("a finished run is not repeated")

    monkeypatch.setattr(comparison, "RIVALS", dict.fromkeys(comparison.RIVALS, fail))
    again = comparison.compare(data, tmp_path, [1, 2], names, said.append)
    assert again == result
    assert len(said) == 6, "finished runs do not start"


def test_each_run_says_its_number_and_the_time_elapsed_and_nothing_of_the_time_left(
    data, tmp_path, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(comparison, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(seconds):
        def run(data, seed):
            now[0] += seconds
            return _scorer(1.0)(data, seed)

        return run

    monkeypatch.setattr(comparison, "RIVALS", {"vanilla": taking(5), "limaml": taking(300)})
    said = []
    comparison.compare(data, tmp_path, [1, 2], ["vanilla", "limaml"], said.append)
    assert said == [
        "[1/4] vanilla, seed 1",
        "[2/4] vanilla, seed 2, 5 s elapsed",
        "[3/4] limaml, seed 1, 10 s elapsed",
        "[4/4] limaml, seed 2, 5.2 minutes elapsed",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_a_network_is_trained_chosen_on_validation_and_scored_as_served(data, tmp_path):
    (row,) = comparison.compare(data, tmp_path, [1], ["limaml"])["results"]
    assert row["served"] is True
    assert 0 < row["auc_mean"] < 1
    assert row["auc_unadapted"] is not None
    assert row["settings"][0]["epochs"] == 1


def test_scores_of_other_rows_are_refused(data, tmp_path):
    comparison.compare(data, tmp_path, [1], ["constant"])
    file = next((tmp_path / "runs").glob("*.parquet"))
    pd.read_parquet(file).iloc[::-1].to_parquet(file, index=False)
    with pytest.raises(LimamlError, match="has scores of other rows than"):
        comparison.compare(data, tmp_path, [1], ["constant"])


def test_runs_of_another_default_of_the_epochs_are_not_taken_for_those_of_this_one(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparison, "RIVALS", {"limaml": _scorer(1.0)})
    data = Data.of(data.tasks)
    comparison.compare(data, tmp_path, [1], ["limaml"])
    comparison.compare(data, tmp_path, [1], ["limaml"])
    monkeypatch.setattr(comparison, "MIN_BATCHES", 401)
    with pytest.raises(LimamlError, match=r"other epochs \(8 epochs, or 400 .*now .* 401 batches"):
        comparison.compare(data, tmp_path, [1], ["limaml"])


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (lambda data: Data.of(data.tasks, epochs=2), "epochs"),
        (lambda data: _with_other_records(data), "records"),
        (lambda data: _with_schema(data), "schema"),
    ],
)
def test_runs_of_other_data_or_epochs_are_not_taken_for_this_call_s(
    data, tmp_path, monkeypatch, change, subject
):
    monkeypatch.setattr(comparison, "RIVALS", {"limaml": _scorer(1.0), "lightgbm": _scorer(1.0)})
    comparison.compare(data, tmp_path, [1], ["limaml", "lightgbm"])
    changed = change(data)
    with pytest.raises(LimamlError, match=rf"limaml-1.json was made with other {subject} \("):
        comparison.compare(changed, tmp_path, [1], ["limaml"])
    if subject == "epochs":
        comparison.compare(changed, tmp_path, [1], ["lightgbm"])


def _with_other_records(data):
    """The same data, with other training records."""
    folder = data.tasks.parent / "other"
    shutil.copytree(data.tasks, folder)
    (record,) = (folder / "member").glob("train-*")
    (other,) = (folder / "member").glob("validation-*")
    shutil.copy(other, record)
    return dataclasses.replace(data, tasks=folder)


def _with_schema(data):
    """The same data with a history feature in the schema."""
    encoder = copy.copy(data.encoder)
    encoder.schema = encoder.schema.replace(history=(History(keys=("kind",)),))
    changed = dataclasses.replace(data, encoder=encoder)
    for split in ("train", "validation", "test"):
        changed.__dict__[split] = getattr(data, split)
    return changed


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rows_of_one_class_are_refused(data, tmp_path, split):
    changed = dataclasses.replace(data)
    rows = getattr(data, split)
    changed.__dict__[split] = dataclasses.replace(rows, label=np.ones_like(rows.label))
    with pytest.raises(LimamlError, match=f"all rows of the {split} split of .* have the label 1"):
        comparison.compare(changed, tmp_path, [1], ["constant"])


def test_without_the_reference_the_table_has_no_gain(data, tmp_path):
    result = comparison.compare(data, tmp_path, [1], ["constant", "task-rate"])
    lines = [line for line in markdown(result).splitlines() if line.startswith("| constant |")]
    assert lines[0].split("|")[4].strip() == ""


def test_what_cannot_run_says_why_and_is_tried_again(data, tmp_path, monkeypatch):
    result = comparison.compare(data, tmp_path, [1], ["history-rate"])
    assert result["results"][0]["note"] == "the schema declares no history features"
    assert "auc_mean" not in result["results"][0]
    outcome = Outcome(np.linspace(0, 1, len(data.test.label)), 0.5)
    monkeypatch.setattr(comparison, "RIVALS", {"history-rate": lambda data, seed: outcome})
    result = comparison.compare(data, tmp_path, [1], ["history-rate"])
    assert "auc_mean" in result["results"][0]
    with pytest.raises(LimamlError, match=r"unknown rivals \['xgboost'\]; choose from"):
        comparison.compare(data, tmp_path, [1], ["xgboost"])
