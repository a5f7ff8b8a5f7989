"""Point-in-time history features against their definition, row by row."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_schema

from limaml_beam.build_tasks import history
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.key_history import KeyHistory, moments_of, one_row_per_token
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.io.pipeline_options import local_by_default
from limaml_beam.rows.columnar import ROW, TIME, key_column
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.cli import main
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Feature, History, parse_time

rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=40,
)
HOW = TaskSettings(definitions=("t",), validation_start=15, test_start=22)


def features(drawn, prior=0.3, smoothing=2.0):
    codes, times, labels = (np.array(column) for column in zip(*drawn, strict=True))
    return KeyHistory.from_rows(codes, times, labels).as_of(
        codes, moments_of(pa.table({TIME: times}), HOW), prior, smoothing
    )


def moment(time):
    return 22 if time >= 22 else 15 if time >= 15 else time


@settings(deadline=None, max_examples=150)
@given(rows, st.sampled_from([0.0, 2.0]))
def test_each_row_sees_the_strictly_earlier_rows_of_its_key_or_those_before_its_split(
    drawn, smoothing
):
    rate, count, recency = features(drawn, smoothing=smoothing)
    for index, (key, time, _) in enumerate(drawn):
        before = [(t, label) for k, t, label in drawn if k == key and t < moment(time)]
        total = sum(label for _, label in before) + smoothing * 0.3
        assert count[index] == len(before)
        assert rate[index] == pytest.approx(
            total / (len(before) + smoothing) if len(before) + smoothing else 0.3
        )
        assert recency[index] == pytest.approx(
            (moment(time) - max(t for t, _ in before)) / DAY_MS if before else -1.0
        )


@settings(deadline=None, max_examples=100)
@given(rows, st.integers(0, 30), st.randoms(use_true_random=False))
def test_nothing_that_happens_at_or_after_a_row_changes_its_features(drawn, when, random):
    changed = [(k, t, 1.0 - label if t >= when else label) for k, t, label in drawn]
    changed += (
        [(random.randrange(4), random.randrange(when, 31), 1.0) for _ in range(3)]
        if when < 31
        else []
    )
    for old, new in zip(features(drawn), features(changed), strict=True):
        for index, (_, time, _) in enumerate(drawn):
            if moment(time) <= when:
                assert old[index] == pytest.approx(new[index])


def test_records_and_the_online_copy_carry_the_features(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    frames = shop_frames(rows=300)
    rows = frames["interactions"]  # the member 0 has none before the test rows
    frames["interactions"] = rows[(rows.member > 0) | (rows.time >= parse_time("2024-01-09"))]
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    tables = {name: str(raw / f"{name}.parquet") for name in shop_schema.tables}
    inputs = Inputs.find(shop_schema, str(raw / "interactions.parquet"), tables)
    how = TaskSettings(definitions=("member",), shards=2, partitions=3, **date_fields(shop_schema))
    card = build_tasks(
        shop_schema, inputs, str(tmp_path / "tasks"), how, options=local_by_default([])
    )

    log = frames["interactions"].merge(frames["items"][["item", "tags"]], on="item")
    validation, test = parse_time("2024-01-07"), parse_time("2024-01-09")
    prior = log[log.time < validation].opened.mean()
    checked = 0
    for key, (query_start, steps) in read_tasks(tmp_path / "tasks", "member", "test").items():
        for position, row in enumerate(steps):
            as_of = test if position >= query_start else min(row["timestamp"], validation)
            own = log[(log.member == int(key)) & (log.time < as_of)]
            assert row["history_member_count"] == len(own)
            assert row["history_member_rate"] == pytest.approx(
                (own.opened.sum() + 2 * prior) / (len(own) + 2), rel=1e-5
            )
            pair = log[
                (log.kind == row["kind"].decode())
                & (log.tags == row["tags"].decode())
                & (log.time < as_of)
            ]
            assert row["history_kind_tags_count"] == len(pair)
            assert row["history_kind_tags_rate"] == pytest.approx(
                pair.opened.mean() if len(pair) else prior, rel=1e-5
            )
            checked += 1
    assert checked > 100

    online = pd.read_parquet(tmp_path / "tasks" / card["history"]["member"]["path"]).set_index(
        "member"
    )
    known = log[log.time < test]
    assert set(log.member) - set(known.member) == {0}
    assert sorted(online.index) == sorted(known.member.astype(str).unique())
    for member, own in known.groupby("member"):
        value = online.loc[str(member)]
        assert value.history_member_count == len(own)
        assert value.history_member_recency == pytest.approx(
            (test - own.time.max()) / DAY_MS, rel=1e-6
        )
        assert value.event_timestamp == pd.Timestamp("2024-01-09", tz="UTC")
    assert card["history"]["member"]["without_rows"]["history_member_rate"] == pytest.approx(prior)


def test_per_token_a_row_gets_the_mean_of_its_tokens_features(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    history = History(keys=("tags",), smoothing=5.0, per_token=True)
    schema = shop_schema.replace(history=(history,))
    frames = shop_frames(rows=200)
    raw = write_raw(tmp_path / "raw", schema, frames)
    tables = {name: str(raw / f"{name}.parquet") for name in schema.tables}
    inputs = Inputs.find(schema, str(raw / "interactions.parquet"), tables)
    how = TaskSettings(definitions=("member",), shards=2, partitions=3, **date_fields(schema))
    build_tasks(schema, inputs, str(tmp_path / "tasks"), how, options=local_by_default([]))

    log = frames["interactions"].merge(frames["items"][["item", "tags"]], on="item")
    log["tokens"] = log.tags.str.split(",")
    prior = log[log.time < parse_time("2024-01-07")].opened.mean()
    several = 0
    for _, steps in read_tasks(tmp_path / "tasks", "member", "train").values():
        for row in steps:
            tokens = row["tags"].decode().split(",")
            several += len(tokens) > 1
            earlier = log[log.time < row["timestamp"]]
            masks = [np.array([t in own for own in earlier.tokens], bool) for t in tokens]
            parts = [earlier[mask] for mask in masks]
            rates = [(p.opened.sum() + 5 * prior) / (len(p) + 5) for p in parts]
            assert row["history_tags_rate"] == pytest.approx(np.mean(rates), rel=1e-5)
            assert row["history_tags_count"] == pytest.approx(np.mean([len(p) for p in parts]))
    assert several > 20


def test_a_token_counts_once_per_row_and_a_row_without_tokens_has_the_empty_one():
    features = (Feature(name="tags", dtype="string", encoding="vocabulary", separator="|"),)
    schema = toy_schema(Feature(name="x", role="meta"), *features)
    rows = pa.table({key_column("tags"): ["a|a", "b|a|a|", "", "||", "c"], "row": [0, 1, 2, 3, 4]})
    made = one_row_per_token(rows, schema, History(keys=("tags",), per_token=True))
    assert sorted(
        zip(made["row"].to_pylist(), made[key_column("tags")].to_pylist(), strict=True)
    ) == [
        *((0, "a"), (1, "a"), (1, "b"), (2, ""), (3, ""), (4, "c")),
    ]
    empty = one_row_per_token(rows.slice(0, 0), schema, History(keys=("tags",), per_token=True))
    assert empty.num_rows == 0


def test_a_daily_run_gives_a_row_the_features_that_training_gave_it(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    frames = shop_frames(rows=300)
    log = frames["interactions"]
    log.loc[log.time >= parse_time("2024-01-07"), "opened"] = (
        1  # a rate of today that is far from the training's
    )
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    trained, own_mean, given_mean = (
        str(tmp_path / name) for name in ("trained", "own_mean", "given_mean")
    )
    daily = ["prepare", str(raw), "--task", "member", "--recent-only", "--window-end", "2024-01-09"]
    assert main(["prepare", str(raw), "--task", "member", "--output", trained]) == 0
    assert main([*daily, "--output", own_mean]) == 0
    assert main([*daily, "--output", given_mean, "--history-prior", trained]) == 0

    def rates(tasks):
        """Of rows before the validation split began, which see their past alone in every run."""
        found = {}
        for key, (_, steps) in read_tasks(tmp_path / tasks, "member", "recent").items():
            steps = [step for step in steps if step["timestamp"] < parse_time("2024-01-07")]
            found[key] = [
                (step["timestamp"], step["history_member_rate"], step["history_kind_tags_rate"])
                for step in steps
            ]
        return found

    assert sum(map(len, rates("trained").values())) > 100
    # Exact on any processor: quotients of sums of whole numbers.
    assert rates("given_mean") == rates("trained")
    assert rates("own_mean") != rates("trained")
    mean = json.loads((tmp_path / "trained" / "statistics.json").read_text())[
        "label_mean"
    ]  # what the manifest of a model tells
    assert main([*daily, "--output", str(tmp_path / "number"), f"--history-prior={mean!r}"]) == 0
    assert rates("number") == rates("trained")
    other = write_raw(
        tmp_path / "other", shop_schema.replace(features=shop_schema.features[1:]), frames
    )
    assert (
        main(
            [
                "prepare",
                str(other),
                *daily[2:],
                "--output",
                str(tmp_path / "x"),
                "--history-prior",
                trained,
            ]
        )
        == 2
    )


def test_blocks_get_their_features_in_one_order_whichever_arrives_first():
    shuffle = Shuffle()
    block = shuffle.pack(pa.table({"x": pa.array([1.0, 2.0])}))
    rows = pa.array([0, 1], pa.int32())
    values = [
        shuffle.pack(pa.table({name: pa.array([0.5, 1.5], pa.float32()), ROW: rows}))
        for name in ("b_rate", "a_rate")
    ]
    joined = [
        next(history._Join(shuffle).process((0, {"blocks": [block], "values": order})))
        for order in (values, values[::-1])
    ]
    assert joined[0].column_names == joined[1].column_names == ["x", "a_rate", "b_rate"]
    assert joined[0].equals(joined[1])
