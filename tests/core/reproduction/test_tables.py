"""The paper's experiments: complete, consistent, measured, kept, and honest about orderings."""

from __future__ import annotations

import dataclasses
import json
import os
import types

import numpy as np
import pytest
from toy_tables import SMALL, TABLE, runs, world

from tfrec_limaml.cli import main
from tfrec_limaml.commands import reproduce
from tfrec_limaml.comparison.rivals import Data
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.report.tables_page import ordering_sentence, write_tables_page
from tfrec_limaml.reproduction import setups
from tfrec_limaml.reproduction.paper_tables import all_tables
from tfrec_limaml.reproduction.run import failed, markdown, run_table
from tfrec_limaml.reproduction.setups import Setup, Trainer
from tfrec_limaml.reproduction.summary import masks, summarise
from tfrec_limaml.reproduction.table import Ordering
from tfrec_limaml.training.options import TrainOptions


@pytest.mark.parametrize("quick", [False, True])
def test_every_table_of_the_paper_is_there_and_refers_to_its_own_lines(quick):
    tables = all_tables(("user", "user_tab"), quick)
    numbered = {f"table{n}" for n in (3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14)}
    assert tables.keys() == numbered | {"refresh", "ablation"}
    for table in tables.values():
        labels = [line.label for line in table.lines]
        assert len(set(labels)) == len(labels)
        named = {table.reference, *(line.reference or labels[0] for line in table.lines)}
        named |= {label for o in table.orderings for label in (o.more, o.less)}
        assert named <= set(labels), table.name
        assert {line.reference or table.reference for line in table.lines} <= set(labels)


def test_equal_setups_have_one_name_and_others_another():
    one = Setup(options=TrainOptions.paper())
    assert one.name == Setup(options=TrainOptions.paper()).name
    others = [
        dataclasses.replace(one, form="unadapted"),
        dataclasses.replace(one, pooling="mean"),
        dataclasses.replace(one, days_old=1.0),
        dataclasses.replace(one, task="user"),
        dataclasses.replace(one, replicas=2),
        dataclasses.replace(one, options=one.options.replace(dropout=0.1)),
    ]
    assert len({setup.name for setup in (one, *others)}) == 7


def test_gains_are_per_cent_of_the_reference_and_orderings_say_whether_they_hold():
    data = world()
    base, better = TABLE.lines
    table = dataclasses.replace(
        TABLE,
        slices="paper",
        orderings=[
            Ordering("LiMAML", "vanilla", robust=True),
            Ordering("vanilla", "LiMAML", time=True),
        ],
    )
    made = {base.setup.name: runs(data, 0.5, 1.0), better.setup.name: runs(data, 1.5, 1.5)}
    result = summarise(table, made, {None: data})
    label = data.test.label
    aucs = [[auc(label, run["scores"]) for run in made[line.setup.name]] for line in table.lines]
    whole = result["lines"][1]["slices"][0]
    expected = 100 * (np.mean(aucs[1]) - np.mean(aucs[0])) / np.mean(aucs[0])
    assert whole["slice"] == "all"
    assert whole["paper"] == 1.47
    assert whole["gain"] == pytest.approx(expected)
    assert whole["gain_low"] < expected < whole["gain_high"]
    assert whole["gain_sd"] == pytest.approx(
        np.std([100 * (a / b - 1) for a, b in zip(aucs[1], aucs[0], strict=True)], ddof=1)
    )
    assert result["lines"][1]["time"] == pytest.approx(50.0)
    assert result["lines"][1]["val_auc_mean"] == pytest.approx(0.75)
    assert "| 0.7500 |  | +50 |" in markdown(result)
    assert [o["holds"] for o in result["orderings"]] == [True, False]
    assert failed(result) == []
    turned = summarise(
        table,
        {base.setup.name: made[better.setup.name], better.setup.name: made[base.setup.name]},
        {None: data},
    )
    assert len(failed(turned)) == 1
    assert "DOES NOT HOLD: *LiMAML* is above *vanilla*" in markdown(turned)


def test_the_table_of_one_seed_shows_no_standard_deviation():
    data = world()
    made = {line.setup.name: runs(data, 1.0, 1.0)[:1] for line in TABLE.lines}
    text = markdown(summarise(TABLE, made, {None: data}))
    assert "one seed, with the 95 % interval" in text
    assert "| gain | interval | AUC |" in text
    assert "(0.00" not in text


def test_cohorts_are_new_dormant_occasional_and_frequent_tasks():
    data = world()
    by_name = dict(masks("cohorts", data))
    rows = data.test
    np.testing.assert_array_equal(by_name["new"], rows.history == 0)
    dormant = (rows.history > 0) & (rows.task % 4 == 0)
    np.testing.assert_array_equal(by_name["dormant"], dormant)
    rest = (rows.history > 0) & ~dormant
    np.testing.assert_array_equal(by_name["occasional"], rest & (rows.history < 6))
    np.testing.assert_array_equal(by_name["frequent"], rest & (rows.history >= 6))
    assert masks("all", data)[0][1].all()
    under = dict(masks("paper", data))["under 25 rows"]
    np.testing.assert_array_equal(under, np.bincount(rows.task)[rows.task] < 25)


def test_few_tasks_are_refused_and_slices_of_few_are_left_out(tmp_path, monkeypatch):
    data = world()
    few = dataclasses.replace(data.test, task=data.test.task % 29)
    monkeypatch.setattr(
        Data, "of", lambda *arguments: types.SimpleNamespace(tasks="tasks", test=few)
    )
    with pytest.raises(LimamlError, match=r"test rows of tasks are of 29 tasks; .* need 30"):
        run_table(TABLE, "tasks", tmp_path, [1])
    by_name = dict(masks("cohorts", data))
    enough = {name for name, mask in by_name.items() if len(np.unique(data.test.task[mask])) >= 30}
    assert "all" in enough
    assert len(enough) < len(by_name)
    made = {line.setup.name: runs(data, 1.0, 1.0) for line in TABLE.lines}
    result = summarise(dataclasses.replace(TABLE, slices="cohorts"), made, {None: data})
    for line in result["lines"]:
        assert {part["slice"] for part in line["slices"]} == enough


def test_lines_of_different_task_definitions_cannot_be_paired():
    finer = dataclasses.replace(TABLE.lines[1], setup=Setup(options=SMALL, task="user_tab"))
    table = dataclasses.replace(TABLE, lines=[TABLE.lines[0], finer])
    data = world()
    made = {line.setup.name: runs(data, 1.0, 1.0) for line in table.lines}
    with pytest.raises(LimamlError, match="rows of different task definitions"):
        summarise(table, made, {None: data, "user_tab": data})


@pytest.mark.slow
@pytest.mark.usefixtures("no_graphs")
def test_a_table_is_run_written_and_not_run_again(tasks_folder, tmp_path, monkeypatch):
    said = []
    result = run_table(TABLE, tasks_folder, tmp_path, [1, 2], progress=said.append)
    assert [line["label"] for line in result["lines"]] == ["vanilla", "LiMAML"]
    assert any(text.startswith("toy, LiMAML: training, seed 1") for text in said)
    assert json.loads((tmp_path / "toy.json").read_text()) == result
    assert "| LiMAML |" in (tmp_path / "toy.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "toy.runs.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["vanilla", "vanilla", "LiMAML", "LiMAML"]
    assert all(line["settings"]["epoch_seconds"] > 0 for line in lines)
    page = write_tables_page(tmp_path / "report.html", "Tables", [result]).read_text()
    assert "A toy" in page
    assert "<svg" in page
    (ordering,) = result["orderings"]
    assert f"<li>{ordering_sentence(ordering)}</li>" in page
    assert f"<td>{result['lines'][1]['val_auc_mean']:.4f}</td>" in page

    def fail(*args):
        raise AssertionError("run again")

    monkeypatch.setattr(Trainer, "run", fail)
    assert run_table(TABLE, tasks_folder, tmp_path, [1, 2]) == result


@pytest.mark.usefixtures("no_graphs")
def test_setups_that_train_alike_share_a_model(tasks_folder, monkeypatch):
    trained = []
    original = setups.train

    def count(*args, **kwargs):
        trained.append(args)
        if len(trained) == 2:
            raise InterruptedError("enough of it")
        return original(*args, **kwargs)

    monkeypatch.setattr(setups, "train", count)
    data, trainer = Data.of(tasks_folder), Trainer()
    fresh = trainer.run(Setup(options=SMALL), data, 1)
    unadapted = trainer.run(Setup(options=SMALL, form="unadapted"), data, 1)
    ancient = trainer.run(Setup(options=SMALL, days_old=1000.0), data, 1)
    assert len(trained) == 1
    # Embeddings that know nothing are un-adapted ones.
    np.testing.assert_allclose(ancient.served, unadapted.served, atol=1e-6)
    assert np.abs(fresh.served - unadapted.served).max() > 1e-4
    with pytest.raises(InterruptedError):
        trainer.run(Setup(options=SMALL), data, 2)
    assert len(trained) == 2


def test_replicas_train_under_a_strategy_and_are_refused_where_devices_lack(monkeypatch):
    seen = []

    def train(*args, strategy, **kwargs):
        seen.append(strategy)
        raise InterruptedError

    monkeypatch.setattr(setups, "train", train)
    monkeypatch.setattr(setups, "replicas_of", lambda count: f"{count} replicas")
    data = types.SimpleNamespace(tasks="tasks", epochs=None)
    for count in (1, 2):
        with pytest.raises(InterruptedError):
            Trainer().run(Setup(options=SMALL, replicas=count), data, 1)
    assert seen == ["1 replicas", "2 replicas"]
    monkeypatch.undo()
    assert setups.replicas_of(1) is None
    with pytest.raises(LimamlError, match="99 replicas need as many GPUs"):
        setups.replicas_of(99)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table2"], r"unknown tables ['table2']"),
        (["table3", "--data-dir", "data"], "--data-dir data is for real data"),
        (["all", "--quick", "--dataset", "kuairand-pure"], "--quick runs on the simulated world"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(tmp_path, capsys, arguments, said):
    assert main(["reproduce", *arguments, "--output", str(tmp_path)]) != 0
    assert said in capsys.readouterr().err


class _Stopped(Exception):
    pass


def test_tables_of_other_data_need_another_folder(tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise _Stopped

    new = tmp_path / "new"
    monkeypatch.setattr(reproduce, "_records", stop)
    for dataset in ("simulated", "kuairand-pure"):  # without records, the data may still change
        command = ["reproduce", "table3", "--dataset", dataset, "--output", str(new)]
        assert main(command) == os.EX_SOFTWARE
    new.mkdir()
    monkeypatch.setattr(reproduce, "_records", lambda *arguments: tmp_path)
    monkeypatch.setattr("tfrec_limaml.reproduction.run.run_table", stop)
    quick = ["reproduce", "table3", "--quick", "--output", str(tmp_path / "new")]
    for _ in range(2):
        assert main(quick) == os.EX_SOFTWARE
    assert capsys.readouterr().err.count("._Stopped") == 4
    assert main(["reproduce", "table3", "--output", str(tmp_path / "new")]) == 2
    assert "has tables of --dataset simulated --quick; choose another" in capsys.readouterr().err
