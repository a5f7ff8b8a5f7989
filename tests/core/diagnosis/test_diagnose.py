"""The diagnostic on records: counts of history, verdicts, the command."""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pytest
from toys import toy_schema, write_split

from tfrec_limaml import Vanilla
from tfrec_limaml.diagnosis import scored_rows
from tfrec_limaml.diagnosis.diagnose import categories, diagnose_definition, verdict
from tfrec_limaml.diagnosis.scored_rows import ScoredRows, _with_categories, score_rows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks import record_format, task_encoder
from tfrec_limaml.tasks.folder import SCHEMA_FILE, STATISTICS_FILE
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.training import recipes
from tfrec_limaml.training.recipes import split_files


def _scored(tau, tasks=500, earlier=20, later=8):
    """Rows of tasks whose labels follow from a logit and a level of their own."""
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(tasks), earlier + later)
    logit = rng.normal(size=len(task)) - 0.5
    label = (
        rng.random(len(task)) < 1 / (1 + np.exp(-logit - tau * rng.normal(size=tasks)[task]))
    ).astype(float)
    query = np.tile(np.arange(earlier + later) >= earlier, tasks)
    return ScoredRows(task, query, label, logit, {})


def _scored_by_history(tasks=3000, earlier=8, later=8):
    """Rows of tasks with a rate of their own, scored by the best that can be said of it: its mean
    given all rows before (of query rows: given the support rows).
    """
    rng = np.random.default_rng(0)
    rate = rng.beta(2, 2, tasks)
    label = (rng.random((tasks, earlier + later)) < rate[:, None]).astype(float)
    before = np.minimum(np.arange(earlier + later), earlier)
    positives = np.concatenate([np.zeros((tasks, 1)), label.cumsum(1)], 1)[:, before]
    mean = (2 + positives) / (4 + before)
    logit = np.log(mean / (1 - mean))
    query = np.tile(np.arange(earlier + later) >= earlier, (tasks, 1))
    task = np.repeat(np.arange(tasks), earlier + later)
    return ScoredRows(task, query.ravel(), label.ravel(), logit.ravel(), {})


def test_a_spread_that_history_does_not_tell_is_no_reason_to_adapt():
    actual = diagnose_definition(_scored_by_history(), "member")
    (source,) = actual["sources"]
    assert source["low"] > 0.2, "later rows of a task agree: its rate is not known exactly"
    assert source["oracle"] > 0.01
    assert abs(source["history"]) < 0.001
    assert actual["verdict"] == "nothing left"


def test_the_verdict_follows_what_tasks_differ_by():
    assert diagnose_definition(_scored(1.0), "member")["verdict"] == "worth it"
    assert diagnose_definition(_scored(0.0, tasks=4000), "member")["verdict"] == "nothing left"
    assert diagnose_definition(_scored(0.0, tasks=20), "member")["verdict"] == "cannot tell"


def test_fewer_than_30_tasks_cannot_tell_and_have_no_interval():
    few = diagnose_definition(_scored(3.0, tasks=29), "member")
    assert few["sources"][0]["history"] > 0.005
    assert few["sources"][0]["history_low"] is few["sources"][0]["history_high"] is None
    assert few["verdict"] == "cannot tell"
    assert diagnose_definition(_scored(3.0, tasks=30), "member")["verdict"] == "worth it"


def test_a_gain_counts_only_where_it_is_surely_above_zero():
    source = {"history_low": 0.0, "history": 0.006, "history_high": 0.008}
    assert verdict([source]) == "nothing left"
    assert verdict([{**source, "history_low": 0.001}]) == "worth it"
    assert verdict([{**source, "history_low": 0.001, "history": 0.002}]) == "small"
    assert verdict([{**source, "history_high": 0.0099}]) == "nothing left"
    assert verdict([{**source, "history_high": 0.01}]) == "cannot tell"


def test_one_label_is_refused():
    rows = _scored(0.0)
    rows.label[rows.query] = 1
    with pytest.raises(LimamlError, match=r"have the same label, .*; choose other split dates"):
        diagnose_definition(rows, "member")
    rows.label[:] = 1
    with pytest.raises(LimamlError, match=r"; so have the earlier rows .*: is it the right label"):
        diagnose_definition(rows, "member")


@pytest.mark.parametrize("earlier", ["none", "of one label"])
def test_a_history_that_cannot_tell_anything_is_no_evidence_against_adapting(earlier):
    rows = _scored(1.0)
    if earlier == "none":
        part = rows.query
        rows = ScoredRows(rows.task[part], part[part], rows.label[part], rows.logit[part], {})
    else:
        rows.label[~rows.query] = 0
    with pytest.raises(LimamlError, match="nothing can be predicted; choose a later"):
        diagnose_definition(rows, "member")


def test_rows_are_scored_and_query_rows_told_from_support_rows(
    make_model, tasks_folder, test_tasks
):
    model = make_model(Vanilla)
    features = categories(model.encoder.schema, "member")
    rows = score_rows(
        model, split_files(tasks_folder, "member", "test", model.encoder.schema), features
    )
    expected = model.predict(test_tasks, verbose=0)
    query = rows.query
    probability = 1 / (1 + np.exp(-rows.logit[query]))
    np.testing.assert_allclose(probability, expected["probability"], rtol=1e-4)
    np.testing.assert_array_equal(rows.label[query], expected["label"])
    history = np.bincount(rows.task[~query], minlength=rows.task.max() + 1)
    np.testing.assert_array_equal(history[rows.task[query]], expected["history"])
    (kind,) = rows.categories.values()
    np.testing.assert_array_equal(kind.row, np.arange(len(rows.task)), "every row has one kind")
    with pytest.raises(LimamlError, match="no recent records of task definition 'member'"):
        split_files(tasks_folder, "member", "recent", model.encoder.schema)
    assert not split_files(tasks_folder, "member", "recent", model.encoder.schema, missing_ok=True)


@pytest.mark.usefixtures("no_graphs")
def test_limaml_diagnose_prints_a_verdict_for_each_definition(tasks_folder, run_limaml):
    result = run_limaml("diagnose", tasks_folder, "--epochs", 1)
    (actual,) = result["definitions"]
    assert actual["definition"] == "member"
    assert [source["source"] for source in actual["sources"]] == [
        "task",
        "task x all features",
        "task x kind",
    ]
    assert actual["verdict"] in ("worth it", "small", "nothing left", "cannot tell")


TAGS = toy_schema(
    Feature(name="signal", role="meta", normalise="none"),
    Feature(name="tags", dtype="string", encoding="vocabulary", separator=","),
    label="clicked",
    tasks={"member": ("member",)},
)


NUMBERS = toy_schema(
    Feature(name="signal", role="meta", normalise="none"),
    Feature(name="x", normalise="none"),
    Feature(name="y", normalise="none"),
    label="clicked",
    tasks={"member": ("member",)},
)
AFTER = 8


def _write_tags(folder, liking, tasks=800):
    """Labels that follow from `signal` and, as far as `liking` goes, from how each member likes a
    row's tags, but the first.
    """
    rng, before = np.random.default_rng(0), 6
    member = np.repeat(np.arange(tasks), before + AFTER)
    signal = rng.normal(size=len(member))
    tags = np.array([rng.permutation(4)[:2] for _ in member])
    likes = liking * rng.normal(size=(tasks, 4))
    columns = {"signal": signal, "tags": [f"a{first},b{second}" for first, second in tags]}
    vocabulary = [f"{letter}{n}" for letter in "ab" for n in range(4)]
    features = {"tags": {"vocabulary": vocabulary, "counts": [1] * 8}}
    logit = signal - 0.5 + likes[member, tags[:, 1]]
    return _write(folder, TAGS, columns, logit, tasks, before, features)


def _write_numbers(folder, taste, tasks=600):
    """Labels that follow from `signal` and, as far as `taste` goes, from how each member likes the
    numbers `x` and `y`.
    """
    rng, before = np.random.default_rng(0), 30
    member = np.repeat(np.arange(tasks), before + AFTER)
    columns = {name: rng.normal(size=len(member)) for name in ("signal", "x", "y")}
    tastes = taste * rng.normal(size=(2, tasks))[:, member]
    logit = columns["signal"] + tastes[0] * columns["x"] + tastes[1] * columns["y"]
    return _write(folder, NUMBERS, columns, logit, tasks, before, {})


def _write(folder, schema, columns, logit, tasks, before, features):
    """Records of tasks that have `before` rows of training each, and `AFTER` of validation."""
    rows = len(logit)
    clicked = np.random.default_rng(1).random(rows) < 1 / (1 + np.exp(-logit))
    label_and_time = {
        record_format.LABEL: clicked.astype(float),
        record_format.TIMESTAMP: np.arange(rows),
    }
    encoder = task_encoder.TaskEncoder(schema, {**columns, **label_and_time})
    keys = pa.array([f"m{task}" for task in range(tasks)])
    starts = np.arange(tasks) * (before + AFTER)
    for split, stop, query_start in (("train", before, -1), ("validation", before + AFTER, before)):
        records = encoder.encode_tasks(keys, starts, starts + stop, np.full(tasks, query_start))
        write_split(folder, "member", split, records.to_pylist())
    schema.save(folder / SCHEMA_FILE)
    Statistics(rows=rows, label_mean=0.4, window={"start": 0, "end": 1}, features=features).save(
        folder / STATISTICS_FILE
    )
    return folder


def _diagnosed(run_limaml, folder):
    """The definitions; the network learns the signal in four epochs."""
    return run_limaml("diagnose", folder, "--epochs", 4)["definitions"]


@pytest.mark.slow
def test_where_members_do_not_differ_limaml_diagnose_says_that_nothing_is_left(
    tmp_path, run_limaml
):
    (actual,) = _diagnosed(run_limaml, _write_tags(tmp_path, liking=0.0))
    assert actual["verdict"] == "nothing left"
    names = [source["source"] for source in actual["sources"]]
    assert names == ["task", "task x all features", "task x tags"]


def test_a_liking_that_only_a_rows_second_tag_shows_is_found(tmp_path, run_limaml):
    (actual,) = _diagnosed(run_limaml, _write_tags(tmp_path, liking=1.5, tasks=1200))
    assert actual["verdict"] == "worth it"
    (tags,) = (source for source in actual["sources"] if source["source"] == "task x tags")
    assert tags["low"] > 0.2
    assert tags["history_low"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("taste", "expected"), [(1.0, "worth it"), (0.0, "nothing left")])
def test_a_taste_for_numbers_is_found_where_there_is_one(tmp_path, run_limaml, taste, expected):
    """Numbers are no categories: only an offset that reads all features shows it."""
    (actual,) = _diagnosed(run_limaml, _write_numbers(tmp_path, taste))
    level, offset = actual["sources"]
    assert abs(level["history"]) < 0.005
    assert offset["deviation"] is None
    assert offset["oracle"] is None
    assert (offset["history_low"] > 0.005) == bool(taste)
    assert actual["verdict"] == expected


def test_a_row_counts_for_each_of_its_values_and_once_for_a_value_named_twice():
    rows = {
        "task": np.array([0, 0, 0, 1, 1]),
        "query": np.array([False, False, True, False, True]),
        "label": np.array([0.0, 1.0, 1.0, 0.0, 1.0]),
        "logit": np.zeros(5),
        "tags": np.array([b"a,b", b"b", b"a,b", b"c", b"b,b"], object),
    }
    tags = _with_categories(rows, [TAGS.features[1]]).categories["tags"]
    assert tags.row.tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert tags.code.tolist() == [0, 1, 1, 0, 1, 2, 1]


def test_a_sample_holds_the_first_query_rows_of_tasks(monkeypatch):
    monkeypatch.setattr(scored_rows, "ROWS_PER_TASK", 1)
    query = np.array([False, True, True, False, True])
    rows = ScoredRows(np.array([0, 0, 0, 1, 1]), query, np.ones(5), np.zeros(5), {})
    assert rows.sample().tolist() == [False, True, False, False, True]


def test_the_judge_is_the_network_of_limaml_train(tmp_path, monkeypatch):
    """A weaker one leaves to adaptation what the features tell."""
    from tfrec_limaml.commands.diagnose import COMMAND
    from tfrec_limaml.training import train as training
    from tfrec_limaml.training.options import TrainOptions

    class _Asked(Exception):
        pass

    asked = []

    def train(tasks, options, task):
        asked.append((tasks, options, task))
        raise _Asked

    schema = toy_schema(Feature(name="signal", role="meta", normalise="none"))
    schema.save(tmp_path / SCHEMA_FILE)
    Statistics(rows=1, label_mean=0.5, window={}, features={}).save(tmp_path / STATISTICS_FILE)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(recipes, "split_files", lambda *_: [])
    (tmp_path / schema.default_task).mkdir()
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    with pytest.raises(_Asked):
        COMMAND.run(parser.parse_args([str(tmp_path)]))
    assert asked == [(tmp_path, TrainOptions(algorithm="vanilla"), schema.default_task)]
