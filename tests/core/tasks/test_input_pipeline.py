"""From record files to batches: every row once, in time order, padded by nothing that counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numbered_rows import ENCODER, SCHEMA, task_pairs, task_rows

from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.padded_batches import support_length
from tfrec_limaml.tasks.record_files import record_files
from tfrec_limaml.tasks.record_format import encode_task


@st.composite
def _tasks(draw):
    counts = draw(st.lists(st.integers(1, 9), min_size=10, max_size=40))
    return [(n, draw(st.integers(-1, n))) for n in counts]


@settings(max_examples=6)  # each traces a pipeline: few, of many tasks
@given(
    _tasks(),
    st.sampled_from([0.0, 0.5, 0.75, 1.0, (0.2, 0.9)]),
    st.integers(1, 5),
    st.none() | st.integers(1, 6),
    st.booleans(),
)
@example([(1, -1)], 1.0, 1, None, False)
@example([(9, 9)], 0.5, 1, 3, True)
def test_every_row_comes_once_support_before_query_and_split_times_are_kept(
    tmp_path_factory, tasks, share, batch_size, most, shuffle
):
    path = str(tmp_path_factory.mktemp("records") / "train-0.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for t, (count, start) in enumerate(tasks):
            writer.write(encode_task(SCHEMA, f"t{t}", task_rows(t, count), start))
    pairs = task_pairs(
        task_dataset(
            path,
            ENCODER,
            batch_size,
            support_fraction=share,
            max_samples=most,
            shuffle=shuffle,
            seed=1,
        )
    )
    found = {(support + query)[0] // 100: (support, query) for support, query in pairs}
    assert len(pairs) == len(found) == len(tasks)
    for t, (count, start) in enumerate(tasks):
        support, query = found[t]
        of_support_part = count if start < 0 else start
        dropped = 0 if most is None else max(of_support_part - most, 0)
        assert support + query == [100 * t + i for i in range(dropped, count)], (
            "the most recent rows, once each, in time order"
        )
        if start >= 0:
            assert len(query) == count - start
        else:
            assert query, "an uncut record leaves at least one row to the query"


@pytest.mark.parametrize(
    ("count", "start", "share", "expected"),
    [
        (8, -1, 0.75, 6),
        (10, -1, 0.7, 7),
        (5, -1, 0.5, 3),
        (4, -1, 1.0, 3),
        (4, -1, 0.0, 0),
        (1, -1, 0.75, 0),
        (8, 2, 0.75, 2),
        (8, 8, 0.1, 8),
        (50, -1, 0.3, 15),
    ],
)
def test_the_cut_rounds_up_and_leaves_a_query_sample(count, start, share, expected):
    assert support_length(
        tf.constant([count], tf.int64), tf.constant([start], tf.int64), share
    ).numpy().tolist() == [expected]


def test_features_labels_and_weights_belong_to_the_same_row(
    every_kind, encoder, make_rows, as_columns, tmp_path
):
    rows = make_rows(5)
    path = str(tmp_path / "one.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(encode_task(every_kind[0], "a", rows))
        writer.write(encode_task(every_kind[0], "b", rows[:2]))
    (batch,) = task_dataset(path, encoder, 2, support_fraction=0.6).as_numpy_iterator()
    expected = {
        n: v.numpy()
        for n, v in encoder({n: tf.constant(v) for n, v in as_columns(rows).items()}).items()
    }
    for part, chosen in (("support", slice(0, 3)), ("query", slice(3, 5))):
        for name, value in expected.items():
            np.testing.assert_allclose(
                batch[part]["features"][name][1], value[chosen], rtol=1e-6, err_msg=name
            )
        for name in ("label", "weight"):
            assert batch[part][name][1].tolist() == [r[name] for r in rows[chosen]]
    assert set(batch) == {"support", "query"}
    assert set(batch["query"]) == {"features", "label", "weight"}


def test_padding_weighs_nothing_and_repeats_the_same_tasks_rows(write):
    (batch,) = task_dataset(
        write([(8, -1), (4, -1), (1, -1)]), ENCODER, 3, support_fraction=0.5
    ).as_numpy_iterator()
    assert batch["support"]["weight"].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["query"]["weight"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    for part in ("support", "query"):
        owners = batch[part]["features"]["meta"][..., 0] // 100
        assert owners.tolist() == [[t] * 4 for t in (2, 1, 0)]


def test_with_keys_keeps_the_files_order_and_tells_who_and_when(write):
    files = [
        write([(5, 2), (1, 0)], "test-00000-of-00002.tfrecord.gz"),
        write([(3, 1)], "test-00001-of-00002.tfrecord.gz"),
    ]
    pattern = files[0].replace("00000-of", "*-of")
    (batch,) = task_dataset(pattern, ENCODER, 4, with_keys=True).as_numpy_iterator()
    assert [k.decode() for k in batch["task_key"]] == ["t0", "t1", "t0"]
    assert batch["query"]["timestamp"].tolist() == [[20, 30, 40], [1, 1, 1], [10, 20, 0]]
    assert batch["support"]["timestamp"][0].tolist() == [0, 10]
    assert batch["query"]["row"][0].tolist() == [2.0, 3.0, 4.0]
    assert "row" not in batch["support"]


def test_support_rows_have_an_age_counted_from_the_newest_of_them(
    every_kind, encoder, make_rows, tmp_path
):
    days = [0.0, 0.5, 3.0, 9.0]
    rows = [
        row | {"timestamp": int(d * 86_400_000)} for row, d in zip(make_rows(4), days, strict=True)
    ]
    path = str(tmp_path / "one.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(encode_task(every_kind[0], "a", rows, 3))
        writer.write(encode_task(every_kind[0], "b", rows[:2], 1))
        writer.write(encode_task(every_kind[0], "c", rows[:2], 0))
    (batch,) = task_dataset(path, encoder, 3, with_keys=True).as_numpy_iterator()
    assert batch["support"]["age"].tolist() == [[3.0, 2.5, 0.0], [0.0] * 3, [0.0] * 3]
    assert "age" not in batch["query"]


def test_a_file_that_several_patterns_match_is_read_once(tmp_path, monkeypatch):
    for name in ("test-0", "train-0", "train-1"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path)
    assert record_files(["*", "train-*", "./train-0"]) == ["test-0", "train-0", "train-1"]
    overlapping = [f"{folder}/train-*", "train-*", f"{folder}//train-1"]
    assert record_files(overlapping) == [f"{folder}/train-0", f"{folder}/train-1"]
    in_store = [f"file://{folder}/t*", f"file://{folder}/train-*"]
    assert len(record_files(in_store)) == 3


def test_paths_and_lists_mean_the_same_as_texts_and_pairs(write):
    text = write([(3, -1), (4, 2), (9, -1)])
    expected = task_pairs(task_dataset(text, ENCODER, support_fraction=(0.2, 0.9), seed=1))
    for pattern in (Path(text), [Path(text)], iter([text])):
        dataset = task_dataset(pattern, ENCODER, support_fraction=[0.2, 0.9], seed=1)
        assert task_pairs(dataset) == expected
