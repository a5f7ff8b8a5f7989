"""The demo's summary: what it measures, with the paired gain and the notes of the evaluation."""

from __future__ import annotations

import pytest

from tfrec_limaml.demo.summary import facts, ranking_table


@pytest.fixture
def result():
    auc = {"auc": 0.75, "auc_low": 0.74, "auc_high": 0.76}
    return {
        "test_rows": 5686,
        "test_tasks": 663,
        "auc": [
            {"algorithm": "vanilla", "fine_tune": True, **auc, "gain": 0.01, "gain_low": 0.005},
            {"algorithm": "limaml", "fine_tune": True, "served": True, **auc, "gain": 0.05}
            | {"gain_low": 0.04, "gain_high": 0.06},
        ],
        "warnings": ["limaml un-adapted is below vanilla"],
        "embeddings": {"count": 600, "dimension": 33, "seconds": 30.0},
        "seconds": {"data": 2.0, "train": 40.0},
    }


def test_the_gain_is_that_of_the_served_form_and_paired(result):
    lines = dict(facts(result))
    assert lines["Test data"] == "5,686 rows of 663 members"
    assert "Test AUC: Vanilla, fine-tuned (cannot be stored)" in lines
    gain = lines["Gain of LiMAML, as served, over Vanilla"]
    assert gain == "+0.0500  (95 %, paired: +0.0400 to +0.0600)"
    assert lines["Note"] == "limaml un-adapted is below vanilla"
    assert lines["Embeddings"].startswith("600 of width 33 in 30.0 s (20 per second")


def test_few_members_have_no_interval_and_no_line_of_the_gain(result):
    result["auc"][1] |= {"gain_low": None, "gain_high": None}
    assert not [name for name, _ in facts(result) if name.startswith("Gain")]


def test_the_table_of_the_ranking_has_the_best_of_the_served_order_first():
    candidates = [
        {"name": "job", "without": 0.5, "before": 0.2, "after": 0.9},
        {"name": "birthday", "without": 0.4, "before": 0.6, "after": 0.1},
    ]
    head, first, second = ranking_table({"ranking": {"candidates": candidates}})
    assert head.split() == ["candidate", "no", "embedding", "embedding", "after", "clicks"]
    assert first.replace("(no. ", "").replace(")", "").split() == [
        *("birthday", "0.400", "2", "0.600", "1", "0.100", "2")
    ]
    assert second.replace("(no. ", "").replace(")", "").split() == [
        *("job", "0.500", "1", "0.200", "2", "0.900", "1")
    ]
