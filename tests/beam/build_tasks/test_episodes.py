"""Training episodes: support/query splits whose query rows see what a daily job would serve."""

from __future__ import annotations

import numpy as np
import pytest

from limaml_beam.build_tasks.episodes import split_times_by_date, split_times_within_tasks
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.pipeline import Inputs
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.build_tasks.split_summary import SplitSummary
from limaml_beam.io.pipeline_options import local_by_default
from tfrec_limaml.cli import main
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import History, Split
from tfrec_limaml.tasks.folder import episodes_in

SHARES = (0.6, 0.2, 0.2)
ITEM_HISTORY = (History(keys=("item",), smoothing=1.0),)


@pytest.fixture
def build(tmp_path, shop_schema, shop_frames, write_raw):
    """Builds task records of 300 interactions; returns the folder, the log and the card."""
    frames = shop_frames(rows=300)

    def build(name, per_task=True, definitions=("member",), episodes=3, partitions=3, shards=2):
        tasks = {**shop_schema.tasks, "kind": ("kind",)}
        schema = shop_schema.replace(history=ITEM_HISTORY, tasks=tasks)
        if per_task:
            schema = schema.replace(split=Split(per_task=SHARES))
        raw = write_raw(tmp_path / f"raw_{name}", schema, frames)
        tables = {table: str(raw / f"{table}.parquet") for table in schema.tables}
        inputs = Inputs.find(schema, str(raw / "interactions.parquet"), tables)
        how = TaskSettings(
            definitions=definitions,
            shards=shards,
            partitions=partitions,
            episodes=episodes,
            **date_fields(schema),
        )
        out = tmp_path / name
        card = build_tasks(schema, inputs, str(out), how, options=local_by_default([]))
        return out, frames["interactions"], card

    return build


@pytest.mark.parametrize("per_task", [True, False])
def test_query_rows_see_history_up_to_the_cut_and_support_rows_up_to_their_own_time(
    build, read_tasks, per_task
):
    out, log, _ = build("tasks", per_task=per_task)
    train = read_tasks(out, "member", "train")
    frozen, split_times = 0, {}
    for number in range(3):
        episode = read_tasks(out, "member", f"episode-{number}")
        if per_task:
            assert episode.keys() == train.keys()
        for key, (start, steps) in episode.items():
            own = train[key][1]
            assert len(steps) == len(own) or not per_task
            own = own[: len(steps)]
            assert [s["timestamp"] for s in steps] == [s["timestamp"] for s in own]
            assert 0 <= start < len(steps)
            if per_task:
                split_times.setdefault(key, []).append(steps[start]["timestamp"])
            for place, (row, plain) in enumerate(zip(steps, own, strict=True)):
                assert row["item"] == plain["item"]
                assert row["label"] == plain["label"]
                if place < start or not per_task:
                    continue
                before = log[(log["item"] == row["item"]) & (log.time < steps[start]["timestamp"])]
                assert row["history_item_count"] == len(before)
                frozen += len(before) < plain["history_item_count"]
            assert [s["history_item_count"] for s in steps[:start]] == [
                s["history_item_count"] for s in own[:start]
            ]
    if per_task:
        assert frozen > 20  # rows whose own moment knows more than its split time does
        assert len({tuple(values) for values in split_times.values()}) > 3


def test_by_date_an_episode_has_one_cut_for_all_tasks(build, read_tasks):
    out, log, card = build("tasks", per_task=False, definitions=("member", "member_kind"))
    summary = SplitSummary(
        rows=(1, 0, 0),
        first=(int(log.time.min()), None, None),
        last=(_last_train_row(read_tasks, out), None, None),
    )
    for definition in ("member", "member_kind"):
        assert "episode-2" in card["tasks"][definition]
        for number, split_time in enumerate(split_times_by_date(summary, 3)):
            both_sides = 0
            end = split_time + 2 * DAY_MS  # the validation rows are of two days
            train = {
                key: [step["timestamp"] for step in steps if step["timestamp"] < end]
                for key, (_, steps) in read_tasks(out, definition, "train").items()
            }
            episode = read_tasks(out, definition, f"episode-{number}")
            assert episode.keys() == {k for k, times in train.items() if times[-1:] >= [split_time]}
            for key, (start, steps) in episode.items():
                assert [step["timestamp"] for step in steps] == train[key]
                assert start == sum(step["timestamp"] < split_time for step in steps)
                for row in steps[start:]:
                    before = log[(log["item"] == row["item"]) & (log.time < split_time)]
                    assert row["history_item_count"] == len(before)
                both_sides += 0 < start < len(steps)
            assert both_sides > 3


def _last_train_row(read_tasks, out):
    train = read_tasks(out, "member", "train")
    return max(step["timestamp"] for _, steps in train.values() for step in steps)


def test_episodes_do_not_depend_on_how_the_work_is_dealt_out(build, read_tasks):
    one, _, _ = build("one", partitions=1, shards=1)
    four, _, _ = build("four", partitions=4, shards=3)
    for number in range(3):
        name = f"episode-{number}"
        assert read_tasks(one, "member", name) == read_tasks(four, "member", name)


def test_a_definition_that_does_not_refine_the_split_has_no_episodes(build):
    out, _, card = build("tasks", definitions=("member", "member_kind", "kind"))
    assert len(episodes_in(out / "member")) == len(episodes_in(out / "member_kind")) == 3
    assert episodes_in(out / "kind") == ()
    assert "episode-0" not in card["tasks"]["kind"]


def test_split_times_lie_behind_a_fifth_and_before_nine_tenths_of_the_training_rows():
    keys = np.arange(1000, dtype=np.uint64) * np.uint64(7919)
    tasks = np.repeat(np.arange(1000), 100)
    times = np.tile(np.arange(100), 1000)
    segment = (times >= 60).astype(np.int64)
    split_times = split_times_within_tasks(keys, tasks, times, times, segment, 4)
    by_task = split_times[::100]
    assert by_task.min() >= 12
    assert by_task.max() <= 54
    assert abs(by_task.mean() - 33.5) < 1.0  # uniform over 12 to 54 of 60 rows, rounded up
    assert (np.corrcoef(by_task.T) - np.eye(4)).max() < 0.12  # one episode tells nothing of another


def test_a_task_with_one_training_row_keeps_it_for_the_query():
    split_times = split_times_within_tasks(
        np.array([1, 2], np.uint64),
        np.array([0, 1]),
        np.array([50, 70]),
        np.array([0, 1]),
        np.array([0, 2]),
        2,
    )
    assert split_times.tolist() == [[50, 50], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--episodes", "-1"], "episodes must be at least 0, received -1"),
        (["--episodes", "2", "--recent-only"], "needs history features in the schema"),
    ],
)
def test_episodes_that_cannot_be_are_refused(
    tmp_path, shop_schema, shop_frames, write_raw, capsys, arguments, said
):
    schema = shop_schema.replace(history=ITEM_HISTORY)
    raw = write_raw(tmp_path / "raw", schema, shop_frames(rows=60))
    assert main(["prepare", str(raw), "--output", str(tmp_path / "t"), *arguments]) != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("few_rows", "options", "hinted"),
    [
        (1000, [], True),
        (1000, ["--episodes", "2"], False),
        (1000, ["--recent-only", "--window-end", "2024-01-11"], False),
        (1000, ["--split-per-task", "0.6,0.2,0.2", "--episodes", "0"], False),
        (1, [], False),
    ],
)
def test_episodes_are_named_where_they_have_helped(
    tmp_path, shop_schema, shop_frames, write_raw, capsys, monkeypatch, few_rows, options, hinted
):
    monkeypatch.setattr("limaml_beam.commands.prepare._FEW_ROWS", few_rows)
    schema = shop_schema.replace(history=ITEM_HISTORY)
    raw = write_raw(tmp_path / "raw", schema, shop_frames(rows=150))
    assert main(["prepare", str(raw), "--output", str(tmp_path / "tasks"), *options]) == 0
    assert ("--episodes 24 may raise the AUC" in capsys.readouterr().out) == hinted


def test_no_hint_on_episodes_without_history_features(
    tmp_path, shop_schema, shop_frames, write_raw, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema.replace(history=()), shop_frames(rows=150))
    assert main(["prepare", str(raw), "--output", str(tmp_path / "tasks")]) == 0
    assert "--episodes" not in capsys.readouterr().out
