"""Keeping the most recent rows per task, and cutting them into records by date."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limaml_beam.build_tasks import grouping
from limaml_beam.build_tasks.grouping import SplitByShard, latest, latest_of
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.writing import spans, task_slices
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER, TASK, TIME, TableCoder
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.errors import LimamlError

VALIDATION, TEST = 100, 200


def make(**changes) -> TaskSettings:
    given_ = {
        "definitions": ("member",),
        "validation_start": VALIDATION,
        "test_start": TEST,
        "max_samples": 3,
        "max_query": 4,
    }
    return TaskSettings(**{**given_, **changes})


def block(tasks, times) -> pa.Table:
    return pa.table(
        {
            TASK: pa.array(tasks, pa.string()),
            TIME: pa.array(times, pa.int64()),
            ORDER: pa.array(range(len(times)), pa.uint64()),
        }
    )


rows = st.lists(st.tuples(st.sampled_from("abcü|"), st.integers(90, 220)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(rows, st.integers(1, 5), st.integers(1, 80))
def test_no_record_has_a_support_row_from_its_own_split_or_later_nor_a_query_row_from_before(
    drawn, cap, window
):
    how = make(max_samples=cap, max_query=cap + 2, window=window)
    table = latest(block(*zip(*drawn, strict=True)), how)
    times, tasks = table[TIME].to_pylist(), table[TASK].to_pylist()
    seen = set()
    found = [
        (split, *record)
        for split, s in spans(table, how).items()
        for record in zip(
            s.keys.to_pylist(),
            s.starts.tolist(),
            s.stops.tolist(),
            s.query_starts.tolist(),
            strict=True,
        )
    ]
    for split, task, start, stop, query_start in found:
        assert (split, task) not in seen
        seen.add((split, task))
        assert set(tasks[start:stop]) == {task}
        assert times[start:stop] == sorted(times[start:stop])
        low, high = {
            "train": (-(2**60), VALIDATION),
            "recent": (-(2**60), TEST),
            "validation": (VALIDATION, TEST),
            "test": (TEST, 2**60),
        }[split]
        end = stop if query_start < 0 else start + query_start
        support, query = times[start:end], times[end:stop]
        first = high if query_start < 0 else low
        assert all(first - window <= t < first for t in support)
        assert len(support) <= cap
        assert all(low <= t < high for t in query)
        assert (query_start < 0) == (not query)
    times_of = defaultdict(list)
    for task, time in drawn:
        times_of[task].append(time)
    assert {t for s, t in seen if s == "test"} == {
        t for t, moments in times_of.items() if max(moments) >= TEST
    }
    assert {t for s, t in seen if s == "validation"} == {
        t for t, m in times_of.items() if any(VALIDATION <= x < TEST for x in m)
    }


@settings(deadline=None, max_examples=100)
@given(rows, st.randoms(use_true_random=False), st.integers(1, 9))
def test_the_same_rows_are_kept_however_they_are_split_into_blocks(drawn, random, size):
    table = block(*zip(*drawn, strict=True))
    order = list(range(len(drawn)))
    random.shuffle(order)
    blocks = [
        table.take(pa.array(order[start : start + size])) for start in range(0, len(order), size)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_SLACK_ROWS", 5)
        assert latest_of(blocks, make()).equals(latest(table, make()))
        assert latest_of([latest(piece, make()) for piece in blocks], make()).equals(
            latest(table, make())
        )


def test_a_task_of_100_000_rows_never_lies_whole_in_memory(monkeypatch):
    how = make(max_samples=50, max_query=60)
    most = []
    whole = latest
    monkeypatch.setattr(
        grouping,
        "latest",
        lambda table, settings: most.append(table.num_rows) or whole(table, settings),
    )
    times = (
        np.random.default_rng(0).permutation(100_000).astype(np.int64) - 100_000
    )  # all before the split time
    blocks = (
        block(["heavy"] * 1000, times[start : start + 1000]) for start in range(0, len(times), 1000)
    )
    assert latest_of(blocks, how)[TIME].to_pylist() == list(range(-50, 0))
    assert max(most) <= 52_000


def test_a_heavy_task_is_cut_down_before_it_is_shuffled(shop_schema):
    rows = block(["x"] * 500, range(500)).rename_columns(["__key:member", TIME, ORDER])
    how = make(max_samples=3, max_query=4)
    packed = dict(SplitByShard(shop_schema, how, "member", Shuffle()).process(rows))
    (kept,) = (Shuffle().unpack(value)[TIME].to_pylist() for value in packed.values())
    assert kept == [*range(97, 100), *range(196, 200), *range(496, 500)]


@settings(deadline=None, max_examples=50)
@given(rows, st.integers(1, 20))
def test_slices_of_whole_tasks_add_up_and_split_no_task(drawn, size):
    table = latest(block(*zip(*drawn, strict=True)), make())
    slices = list(task_slices(table, size))
    assert pa.concat_tables(slices).equals(table)
    tasks = [set(piece[TASK].to_pylist()) for piece in slices]
    assert sum(map(len, tasks)) == len(set.union(*tasks))
    assert all(piece.num_rows >= size for piece in slices[:-1])


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_packed_tables_come_back_from_any_process_whole(tmp_path, scratch):
    shuffle = Shuffle(scratch and str(tmp_path / scratch))
    tables = [block(["ä"] * n, range(n)) for n in (3, 0, 5)]
    packed = [shuffle.pack(table) for table in tables]
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        assert list(pool.map(shuffle.unpack, packed)) == tables
    assert all(isinstance(one, bytes) for one in packed)
    assert bool(scratch) == (max(map(len, packed)) < 100)


def test_tables_survive_the_coder_with_vectors_and_text():
    table = pa.table(
        {
            "s": ["ä", ""],
            "v": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 3, 4], pa.float32()), 2),
        }
    )
    assert TableCoder().decode(TableCoder().encode(table)).equals(table)


def test_large_tables_are_compressed_by_the_coder_and_small_ones_are_not():
    large = pa.table({"x": np.zeros(10_000)})
    encoded = TableCoder().encode(large)
    assert len(encoded) < large.nbytes / 10
    assert TableCoder().decode(encoded).equals(large)
    small = large.slice(0, 100)
    assert small["x"].chunk(0).buffers()[1].to_pybytes()[: small.nbytes] in TableCoder().encode(
        small
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"max_samples": 0}, "max_samples must be at least 1"), ({"max_query": 2}, "max_query")],
)
def test_impossible_caps_are_refused(changes, message):
    with pytest.raises(LimamlError, match=message):
        make(**changes)


def test_a_value_has_one_hash_however_its_column_is_stored():
    for plain in (pa.array(["b", "a", "", "b"]), pa.array([7, -7, 7, 2**60])):
        expected = columnar.stable_hash(plain).tolist()
        assert len(set(expected)) == 3
        few = plain.dictionary_encode()
        many = pa.DictionaryArray.from_arrays(
            few.indices, pa.concat_arrays([few.dictionary, plain, plain])
        )
        for column in (few, many, pa.chunked_array([few[:1], few[1:]])):
            assert columnar.stable_hash(column).tolist() == expected
