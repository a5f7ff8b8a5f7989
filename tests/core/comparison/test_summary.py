"""What the table of a comparison says: means over seeds, paired gains, what diverged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tfrec_limaml.commands.compare import markdown
from tfrec_limaml.comparison import rivals
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.comparison.summary import summarise
from tfrec_limaml.evaluation.metrics import Z_95, auc, auc_difference, grouped_auc, ndcg


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


@pytest.mark.parametrize(("positives", "shown"), [(9, False), (10, True)])
def test_a_slice_with_few_rows_of_one_class_has_no_auc(positives, shown):
    rows = _rows(tasks=400)
    rows = dataclasses.replace(rows, history=np.arange(400) // 200 * 30)
    rows.label[:200] = np.arange(200) < positives
    (entry,) = summarise([_run("vanilla", 1, np.full(400, 0.4))], rows, "vanilla")
    few, many = entry["slices"]
    assert (few["auc"] is not None) == shown
    assert many["auc"] is not None
    result = {"rows": 400, "tasks": 400, "seeds": [1], "reference": "vanilla", "results": [entry]}
    assert ("fewer than 10 rows of one class" in markdown(result)) != shown


@pytest.mark.parametrize(("tasks", "shown"), [(29, False), (30, True)])
def test_the_auc_within_few_tasks_is_not_shown(tasks, shown):
    rows = _rows(tasks=tasks)
    rows.label[:] = np.arange(400) // tasks % 2
    (entry,) = summarise([_run("vanilla", 1, np.full(400, 0.4))], rows, "vanilla")
    assert (entry["gauc"] is not None) == shown
    result = {"rows": 400, "tasks": 400, "seeds": [1], "reference": "vanilla", "results": [entry]}
    line = next(line for line in markdown(result).splitlines() if line.startswith("| vanilla"))
    assert (line.split("|")[7].strip() == "") != shown


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
    runs = [_run("constant", 1, scores), _run("too high", 1, np.full(400, 0.2))]
    entry, too_high = summarise(runs, rows, "constant")
    assert too_high["diverged"] == [1]
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
