"""Splits within tasks: shares of each task's own rows in time order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.job import build_tasks
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.build_tasks.task_split import split_tasks
from limaml_beam.io.pipeline_options import local_by_default
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import History, Split

SHARES = (0.6, 0.2, 0.2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60))
def test_each_task_is_divided_by_rank_and_sees_only_what_was_before_its_split(rows):
    tasks, times = np.array(rows).T
    tasks = np.unique(tasks, return_inverse=True)[1]
    segment, moment = split_tasks(tasks, times, np.arange(len(rows)), SHARES)
    frame = pd.DataFrame({"task": tasks, "time": times, "segment": segment, "moment": moment})
    for _, own in frame.groupby("task"):
        n = len(own)
        ends = [round(0.6 * n), round(0.8 * n)]
        counts = np.bincount(own.segment, minlength=3)
        assert counts.tolist() == [ends[0], ends[1] - ends[0], n - ends[1]]
        for number in range(3):
            part = own[own.segment == number]
            later = own[own.segment > number]
            if len(part) and len(later):
                assert part.time.max() <= later.time.min()
            expected = part.time if number == 0 else np.full(len(part), part.time.min())
            np.testing.assert_array_equal(part.moment, expected)


def test_records_follow_the_shares_and_history_is_frozen_at_the_tasks_own_split(
    tmp_path, shop_schema, shop_frames, write_raw, read_tasks
):
    schema = shop_schema.replace(
        split=Split(per_task=SHARES),
        history=(History(keys=("item",), smoothing=1.0),),
        tasks={**shop_schema.tasks, "item": ("item",)},
    )
    frames = shop_frames(rows=300)
    raw = write_raw(tmp_path / "raw", schema, frames)
    tables = {name: str(raw / f"{name}.parquet") for name in schema.tables}
    inputs = Inputs.find(schema, str(raw / "interactions.parquet"), tables)
    how = TaskSettings(
        definitions=("member", "item"), shards=2, partitions=3, **date_fields(schema)
    )
    card = build_tasks(schema, inputs, str(tmp_path / "t"), how, options=local_by_default([]))

    log = frames["interactions"]
    sizes = log.groupby("member").size()
    read = {s: read_tasks(tmp_path / "t", "member", s) for s in ("train", "validation", "test")}
    total = 0
    for key, (start, steps) in read["test"].items():
        n = int(sizes[int(key)])
        assert (start, len(steps)) == (round(0.8 * n), n)
        assert len(read["train"][key][1]) == round(0.6 * n)
        moment = steps[start]["timestamp"]
        for row in steps[start:]:
            before = log[(log["item"] == row["item"]) & (log.time < moment)]
            assert row["history_item_count"] == len(before)
            total += len(before)
    assert total > 50
    rows = {name: card["splits"][name]["rows"] for name in card["splits"]}
    assert rows["train"] == sum(round(0.6 * n) for n in sizes)
    _check_rows_of_items(tmp_path / "t", read_tasks)


def _check_rows_of_items(folder, read_tasks):
    """A row is in the same split in its item's record as in its member's, whatever was when."""

    def of(definition, split):
        """Support and query rows of all records."""
        parts = [], []
        for start, steps in read_tasks(folder, definition, split).values():
            end = len(steps) if start < 0 else start
            for part, some in zip(parts, (steps[:end], steps[end:]), strict=True):
                part += [(row["timestamp"], row["item"]) for row in some]
        return [sorted(part) for part in parts]

    for split in ("train", "recent"):
        assert of("item", split) == of("member", split)
    every = Counter(of("item", "recent")[0]) + Counter(of("item", "test")[1])
    for split in ("validation", "test"):
        queries = of("member", split)[1]
        assert of("item", split)[1] == queries
        # Nowhere is a query row a support row too.
        assert Counter(queries) + Counter(of("item", split)[0]) <= every


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"per_task": (0.6, 0.4)}, "three positive shares that sum to 1"),
        ({"per_task": (0.6, 0.3, 0.3)}, "three positive shares that sum to 1"),
        ({"per_task": (1.0, 0.0, 0.0)}, "three positive shares that sum to 1"),
        ({"per_task": SHARES, "test_start": "2024-01-09"}, "takes per_task or dates"),
        ({"test_start": "2024-01-09"}, "needs validation_start and test_start, or per_task"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split, said):
    with pytest.raises(SchemaError, match=said):
        Split(**split)


def test_dates_beside_shares_are_refused(shop_schema):
    schema = shop_schema.replace(split=Split(per_task=SHARES))
    with pytest.raises(LimamlError, match=r"splits within tasks.*leave out the dates"):
        date_fields(schema, test_start="2024-01-09")
