"""Keeping the most recent rows per task, and cutting them into records by date."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limaml_beam.columnar import ORDER, TASK, TIME, TableCoder
from limaml_beam.options import TaskSettings
from limaml_beam.task_grouping import LatestPerTask, latest
from limaml_beam.task_writing import spans
from tfrec_limaml.errors import LimamlError

VALIDATION, TEST = 100, 200


def make(**changes) -> TaskSettings:
    given_ = {"definitions": ("t",), "validation_start": VALIDATION, "test_start": TEST, "max_samples": 3, "max_query": 4}
    return TaskSettings(**{**given_, **changes})


def block(tasks, times) -> pa.Table:
    return pa.table(
        {TASK: pa.array(tasks, pa.string()), TIME: pa.array(times, pa.int64()), ORDER: pa.array(range(len(times)), pa.uint64())}
    )


rows = st.lists(st.tuples(st.sampled_from("abcü|"), st.integers(90, 220)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(rows, st.integers(1, 5), st.integers(1, 80))
def test_no_record_has_a_support_row_from_its_own_split_or_later_nor_a_query_row_from_before(drawn, cap, window):
    how = make(max_samples=cap, max_query=cap + 2, window=window)
    table = latest(block(*zip(*drawn, strict=True)), how)
    times, tasks = table[TIME].to_pylist(), table[TASK].to_pylist()
    seen = set()
    for split, task, start, stop, query_start in spans(table, how):
        assert (split, task) not in seen
        seen.add((split, task))
        assert set(tasks[start:stop]) == {task}
        assert times[start:stop] == sorted(times[start:stop])
        low, high = {"train": (-(2**60), VALIDATION), "recent": (-(2**60), TEST), "validation": (VALIDATION, TEST), "test": (TEST, 2**60)}[
            split
        ]
        cut = stop if query_start < 0 else start + query_start
        support, query = times[start:cut], times[cut:stop]
        first = high if query_start < 0 else low
        assert all(first - window <= t < first for t in support)
        assert len(support) <= cap
        assert all(low <= t < high for t in query)
        assert (query_start < 0) == (not query)
    times_of = defaultdict(list)
    for task, time in drawn:
        times_of[task].append(time)
    assert {t for s, t in seen if s == "test"} == {t for t, moments in times_of.items() if max(moments) >= TEST}
    assert {t for s, t in seen if s == "validation"} == {t for t, m in times_of.items() if any(VALIDATION <= x < TEST for x in m)}


@settings(deadline=None, max_examples=100)
@given(rows, st.randoms(use_true_random=False))
def test_the_combiner_keeps_the_same_rows_however_they_are_split_into_bundles(drawn, random):
    table = block(*zip(*drawn, strict=True))
    combine = LatestPerTask(make())
    order = list(range(len(drawn)))
    random.shuffle(order)
    accumulators = []
    for start in range(0, len(order), 7):
        piece = table.take(pa.array(order[start : start + 7]))
        accumulator = combine.add_input(combine.create_accumulator(), piece.slice(0, 3))
        accumulators.append(combine.compact(combine.add_input(accumulator, piece.slice(3))))
    coder = combine.get_accumulator_coder()
    merged = combine.merge_accumulators([coder.decode(coder.encode(a)) for a in [*accumulators, combine.create_accumulator()]])
    assert combine.extract_output(merged).equals(latest(table, make()))


def test_a_task_of_100_000_rows_never_lies_whole_in_an_accumulator():
    how = make(max_samples=50, max_query=60)
    combine = LatestPerTask(how)
    accumulator, most = combine.create_accumulator(), 0
    draw = np.random.default_rng(0)
    times = draw.permutation(100_000).astype(np.int64) - 100_000  # all before the cut
    for start in range(0, len(times), 1000):
        accumulator = combine.add_input(accumulator, block(["heavy"] * 1000, times[start : start + 1000]))
        most = max(most, sum(t.num_rows for t in accumulator))
    assert most <= 52_000
    kept = combine.extract_output(accumulator)[TIME].to_pylist()
    assert kept == list(range(-50, 0))
    assert sum(t.num_rows for t in combine.compact(accumulator)) == 50


def test_tables_survive_the_coder_with_vectors_and_text():
    table = pa.table({"s": ["ä", ""], "v": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 3, 4], pa.float32()), 2)})
    assert TableCoder().decode(TableCoder().encode(table)).equals(table)


@pytest.mark.parametrize(("changes", "message"), [({"max_samples": 0}, "max_samples must be at least 1"), ({"max_query": 2}, "max_query")])
def test_impossible_caps_are_refused(changes, message):
    with pytest.raises(LimamlError, match=message):
        make(**changes)
