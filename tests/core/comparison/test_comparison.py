"""The comparison with rivals: same rows, resumable, honest about what could not run."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from tfrec_limaml.commands.compare import markdown
from tfrec_limaml.comparison import rivals
from tfrec_limaml.comparison import run as comparison
from tfrec_limaml.comparison.rivals import Data, Outcome
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.comparison.summary import summarise
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import Z_95, auc, auc_difference, grouped_auc, ndcg
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


def _rows(count=400, tasks=40):
    random = np.random.default_rng(0)
    task = np.arange(count) % tasks
    return Rows(
        label=(random.random(count) < 0.4).astype(np.float32),
        weight=np.ones(count),
        timestamp=np.arange(count),
        task_key=task.astype("S"),
        task=task,
        history=task % 7,
        last_seen=np.zeros(count, np.int64),
        columns={},
    )


def _run(name, seed, scores, **more):
    return {
        "name": name, "seed": seed, "scores": scores, "served": True, "val_auc": 0.7,
        "seconds": 1.0, "settings": {}, **more,
    }  # fmt: skip


def test_a_seed_that_diverged_is_reported_and_left_out_of_the_mean():
    rows, random = _rows(), np.random.default_rng(1)
    fine = [np.clip(0.4 + 0.2 * rows.label + 0.1 * random.normal(size=400), 0.01, 0.99)
            for _ in range(2)]  # fmt: skip
    bad = [np.full(400, np.nan), np.where(rows.label > 0, 1e-9, 1 - 1e-9)]
    runs = [_run("vanilla", seed, s) for seed, s in enumerate([*fine, *bad])]
    (entry,) = summarise(runs, rows, "vanilla")
    assert entry["diverged"] == [2, 3]
    aucs = [auc(rows.label, s) for s in fine]
    assert entry["auc_mean"] == pytest.approx(np.mean(aucs))
    assert entry["auc_sd"] == pytest.approx(np.std(aucs, ddof=1))


def test_one_seed_has_no_standard_deviation():
    rows = _rows()
    scores = np.clip(0.4 + 0.2 * rows.label, 0.01, 0.99)
    (entry,) = summarise([_run("vanilla", 1, scores)], rows, "vanilla")
    assert entry["auc_sd"] is None
    result = {"rows": 400, "tasks": 20, "seeds": [1], "reference": "vanilla", "results": [entry]}
    text = markdown(result)
    assert "standard deviation" not in text
    assert f"| vanilla | {entry['auc_mean']:.4f} | " in text


def test_fewer_than_30_tasks_have_a_gain_and_no_interval_and_no_slices():
    rows = _rows(tasks=12)
    scores = np.clip(0.4 + 0.2 * rows.label, 0.01, 0.99)
    runs = [_run("vanilla", 1, scores[::-1]), _run("limaml", 1, scores)]
    entry = summarise(runs, rows, "vanilla")[1]
    assert entry["gain"] > 0.1
    assert (entry["gain_low"], entry["gain_high"]) == (None, None)
    assert {part["auc"] for part in entry["slices"]} == {None}
    result = {"rows": 400, "tasks": 12, "seeds": [1], "reference": "vanilla", "results": [entry]}
    assert f"{entry['gain']:+.4f} (too few tasks for an interval)" in markdown(result)


def test_rows_count_by_their_weights_in_log_loss_and_calibration_and_no_fit_run_has_diverged():
    """Negatives that were sampled, one in a hundred, and weigh for it."""
    label = (np.arange(400) % 2).astype(np.float32)
    rows = dataclasses.replace(_rows(), label=label, weight=np.where(label > 0, 1.0, 100.0))
    scores = np.full(400, 1 / 101)
    (entry,) = summarise([_run("constant", 1, scores)], rows, "constant")
    assert entry["calibration"] == pytest.approx(1.0)
    expected = -(np.log(1 / 101) + 100 * np.log(100 / 101)) / 101
    assert entry["log_loss"] == pytest.approx(expected)


def test_a_task_s_rate_counts_rows_by_their_weights():
    earlier = dataclasses.replace(_rows(), weight=np.where(_rows().label > 0, 1.0, 9.0))
    mean = np.average(earlier.label, weights=earlier.weight)
    own = earlier.task == 3
    total = (earlier.weight * earlier.label)[own].sum() + rivals.SMOOTHING * mean
    expected = total / (earlier.weight[own].sum() + rivals.SMOOTHING)
    np.testing.assert_allclose(rivals._rates((earlier,), _rows())[_rows().task == 3], expected)


def test_the_gain_is_paired_by_seed_and_its_interval_holds_the_difference():
    rows, random = _rows(), np.random.default_rng(1)
    noise = [random.normal(size=400) for _ in range(3)]
    base = [1 / (1 + np.exp(-(0.5 * rows.label + n))) for n in noise]
    better = [1 / (1 + np.exp(-(1.5 * rows.label + n))) for n in noise]
    runs = [_run("vanilla", s, v) for s, v in enumerate(base)]
    runs += [_run("limaml", s, v) for s, v in enumerate(better)]
    entry = summarise(runs, rows, "vanilla")[1]
    gains = [auc(rows.label, b) - auc(rows.label, a) for a, b in zip(base, better, strict=True)]
    assert entry["gain"] == pytest.approx(np.mean(gains))
    assert 0 < entry["gain_low"] < entry["gain"] < entry["gain_high"]
    assert sum(part["rows"] for part in entry["slices"]) == 400


def test_a_rival_without_seeds_is_paired_with_every_run_of_the_reference():
    rows, random = _rows(), np.random.default_rng(1)
    base = [1 / (1 + np.exp(-(0.5 * rows.label + random.normal(size=400)))) for _ in range(3)]
    only = 1 / (1 + np.exp(-(rows.label + random.normal(size=400))))
    runs = [_run("task-rate", 0, only)] + [_run("vanilla", s, v) for s, v in enumerate(base)]
    entry, reference = summarise(runs, rows, "vanilla")
    assert entry["gain"] == pytest.approx(entry["auc_mean"] - reference["auc_mean"])
    aucs = np.array([auc(rows.label, scores) for scores in base])
    differences = [auc_difference(rows.label, only, scores, rows.task) for scores in base]
    of_rows = np.mean([((d.high - d.value) / Z_95) ** 2 for d in differences])
    half = Z_95 * np.sqrt(of_rows + np.var(aucs, ddof=1) / 3)
    assert entry["gain_high"] - entry["gain"] == pytest.approx(half)


def _logits_of_seeds(rows, seeds, quality, lost=()):
    """Runs of seeds; those in `lost` have diverged."""
    made = {}
    for seed in seeds:
        noise = np.random.default_rng(seed).normal(size=len(rows.label))
        made[seed] = 1 / (1 + np.exp(-(quality * rows.label + noise)))
    return {s: np.full(len(rows.label), np.nan) if s in lost else v for s, v in made.items()}


def test_all_columns_are_of_the_seeds_that_the_rival_and_the_reference_have():
    rows = _rows()
    runs = [_run("task-rate", 1, np.clip(0.4 + 0.1 * rows.label, 0, 1))]
    for name, quality, lost in (("vanilla", 0.5, (2,)), ("limaml", 1.5, ()), ("din", 1.0, (3,))):
        scores = _logits_of_seeds(rows, (1, 2, 3), quality, lost)
        runs += [_run(name, seed, values) for seed, values in scores.items()]
    rate, vanilla, limaml, din = summarise(runs, rows, "vanilla")
    for entry in (rate, limaml):
        assert entry["gain"] == pytest.approx(entry["auc_mean"] - vanilla["auc_mean"])
    assert "used_seeds" not in rate
    assert vanilla["used_seeds"] == limaml["used_seeds"] == [1, 3]
    assert "diverged" not in limaml
    assert din["used_seeds"] == [1], "one run that is left is paired with its own seed alone"
    aucs = [auc(rows.label, run["scores"]) for run in runs if run["seed"] == 1]
    assert din["gain"] == pytest.approx(din["auc_mean"] - aucs[1])


def test_without_a_common_seed_there_is_no_gain():
    rows = _rows()
    runs = []
    for name, lost in (("vanilla", (1,)), ("limaml", (2, 3))):
        scores = _logits_of_seeds(rows, (1, 2, 3), 1.0, lost)
        runs += [_run(name, seed, values) for seed, values in scores.items()]
    limaml = summarise(runs, rows, "vanilla")[1]
    assert (limaml["used_seeds"], "gain" in limaml) == ([1], False)


def test_grouped_auc_weighs_tasks_by_their_rows_and_ndcg_looks_at_the_top():
    task = np.array([0, 0, 1, 1, 1, 1, 2])
    label = np.array([1.0, 0, 1, 0, 0, 0, 1])
    score = np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.3, 0.2])
    assert grouped_auc(task, label, score) == pytest.approx((2 * 1.0 + 4 * 2 / 3) / 6)
    assert ndcg(task, label, score) == pytest.approx((1 + 1 / np.log2(3) + 1) / 3)
    assert ndcg(task, label, score, k=1) == pytest.approx(2 / 3)
    assert np.isnan(ndcg(task[:0], label[:0], score[:0]))
