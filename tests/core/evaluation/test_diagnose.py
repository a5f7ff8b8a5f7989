"""The diagnostic on records: counts of history, verdicts, the command."""

from __future__ import annotations

import numpy as np
import pytest

from tfrec_limaml import Vanilla
from tfrec_limaml.diagnose import ScoredRows, categories, diagnose_definition, record_files, score_rows, verdict
from tfrec_limaml.errors import LimamlError


def _scored(tau, tasks=500, per_task=8):
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(tasks), per_task)
    logit = rng.normal(size=len(task)) - 0.5
    label = (rng.random(len(task)) < 1 / (1 + np.exp(-logit - tau * rng.normal(size=tasks)[task]))).astype(float)
    return ScoredRows(task, label, logit, np.full(len(task), 20), {}, {})


def test_the_verdict_follows_what_tasks_differ_by():
    assert diagnose_definition(_scored(1.0), "member")["verdict"] == "worth it"
    assert diagnose_definition(_scored(0.0, tasks=4000), "member")["verdict"] == "nothing left"
    assert diagnose_definition(_scored(0.0, tasks=20), "member")["verdict"] == "cannot tell"


def test_a_gain_counts_only_where_its_deviation_is_surely_above_zero():
    source = {"low": 0.0, "history": 0.02, "at_most": 0.005}
    assert verdict([source]) == "nothing left"
    assert verdict([{**source, "low": 0.1}]) == "worth it"
    assert verdict([{**source, "low": 0.1, "history": 0.002}]) == "small"
    assert verdict([{**source, "at_most": 0.05}]) == "cannot tell"


def test_one_label_is_refused():
    rows = _scored(0.0)
    rows.label[:] = 1
    with pytest.raises(LimamlError, match="one label"):
        diagnose_definition(rows, "member")


def test_rows_are_scored_with_what_came_before_them(make_model, tasks_folder, test_tasks):
    model = make_model(Vanilla)
    features = categories(model.encoder.schema, "member")
    rows = score_rows(model, record_files(tasks_folder, "member", "test"), features)
    expected = model.predict(test_tasks, verbose=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-rows.logit)), expected["probability"], rtol=1e-4)
    np.testing.assert_array_equal(rows.label, expected["label"])
    np.testing.assert_array_equal(rows.history, expected["history"])
    (before,) = rows.category_history.values()
    assert (before <= rows.history).all()
    assert before.max() > 0
    with pytest.raises(LimamlError, match="no recent records of task definition 'member'"):
        record_files(tasks_folder, "member", "recent")


def test_limaml_diagnose_prints_a_verdict_for_each_definition(tasks_folder, run_limaml):
    result = run_limaml("diagnose", tasks_folder, "--epochs", 1)
    (found,) = result["definitions"]
    assert found["definition"] == "member"
    assert [source["source"] for source in found["sources"]] == ["task", "task x kind"]
    assert found["verdict"] in ("worth it", "small", "nothing left", "cannot tell")
