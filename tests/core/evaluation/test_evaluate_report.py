"""What `limaml evaluate` prints and warns of."""

from __future__ import annotations

import pytest

from tfrec_limaml.cli import main
from tfrec_limaml.commands.evaluate import COMMAND as EVALUATE
from tfrec_limaml.commands.evaluate import warnings_of


def test_a_model_that_is_worse_than_what_it_replaces_is_warned_of():
    def row(algorithm, auc, fine_tune=False, **more):
        return {"algorithm": algorithm, "auc": auc, "fine_tune": fine_tune, **more}

    fine = [row("vanilla", 0.7), row("limaml", 0.6998), row("limaml", 0.72, True, served=True)]
    assert warnings_of(fine) == []
    bad = [row("vanilla", 0.7), row("limaml", 0.687), row("limaml", 0.68, True, served=True)]
    assert [text.split(" AUC ")[0] for text in warnings_of(bad)] == [
        "limaml un-adapted is 0.0130",
        "limaml as served is 0.0200",
        "limaml as served is 0.0070",
    ]
    chance = [row("vanilla", 0.7), row("limaml", 0.69, gain_low=-0.02, gain_high=0.001)]
    assert warnings_of(chance) == []
    sure = [row("vanilla", 0.7), row("limaml", 0.69, gain_low=-0.02, gain_high=-0.001)]
    assert len(warnings_of(sure)) == 1


@pytest.mark.usefixtures("no_graphs")
def test_the_printed_table_has_the_gain_of_each_slice_and_no_interval_for_few_tasks(
    make_model, tasks_folder, tmp_path, run_limaml
):
    make_model().save(tmp_path / "limaml.keras")
    result = run_limaml("evaluate", tasks_folder, "--run", tmp_path)
    lines = EVALUATE.render(result).splitlines()
    best = max(result["results"], key=lambda row: row["auc"])
    form = "fine-tuned" if best["fine_tune"] else "un-adapted"
    form = "as served" if "served" in best else form
    start = lines.index(f"AUC of limaml, {form}, by samples of history and by cohort")
    assert "gain over limaml (95 %)" in lines[start + 1]
    parts = {line[:18].strip(): line for line in lines[start + 2 :] if " tasks " in line}
    for part in (*best["slices"], *best["cohorts"]):
        line = parts[part["slice"]]
        if part["tasks"] < 30:
            assert line.endswith(f"({part['note']})")
            assert line.split(f"{part['tasks']} tasks")[1].split()[1:3] == ["-", "-"]
        else:
            assert f"{part['gain']:+.4f} ({part['gain_low']:+.4f} {part['gain_high']:+.4f})" in line
    assert any(part["tasks"] < 30 for part in best["cohorts"])
    assert any(part["tasks"] >= 30 for part in best["cohorts"])


@pytest.mark.parametrize("days", ["-3", "nan"])
def test_days_that_cannot_be_are_refused_before_anything_is_scored(tmp_path, capsys, days):
    assert main(["evaluate", str(tmp_path), "--run", str(tmp_path), "--dormant-days", days]) == 2
    assert f"--dormant-days must be at least 0, received {days}" in capsys.readouterr().err


def test_metrics_that_tell_nothing_are_among_the_warnings_once(
    make_model, tasks_folder, tmp_path, run_limaml, monkeypatch, recwarn
):
    monkeypatch.setattr("tfrec_limaml.evaluation.evaluate.MIN_TASKS", 1000)
    make_model().save(tmp_path / "limaml.keras")
    result = run_limaml("evaluate", tasks_folder, "--run", tmp_path)
    said = "AUC within tasks is not informative here: fewer than 1000 tasks have rows of both"
    assert len([text for text in result["warnings"] if text.startswith(said)]) == 1
    assert not [w for w in recwarn if "informative" in str(w.message)]
