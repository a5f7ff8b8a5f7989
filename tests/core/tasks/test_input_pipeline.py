"""From record files to batches: every row once, in time order, padded by nothing that counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numbered_rows import ENCODER, SCHEMA, task_rows
from toys import toy_schema, toy_statistics

from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks import batch_reader
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.padded_batches import support_length
from tfrec_limaml.tasks.parsing import encode_rows, most_recent, parse_tasks
from tfrec_limaml.tasks.record_files import Share, count_tasks
from tfrec_limaml.tasks.record_format import encode_task


def _rows(part):
    """For each task of a batch, the rows that count."""
    ids, weights = part["features"]["meta"][..., 0], part["weight"]
    return [ids[t][weights[t] > 0].astype(int).tolist() for t in range(len(ids))]


def _pairs(dataset):
    return [
        pair
        for batch in dataset.as_numpy_iterator()
        for pair in zip(_rows(batch["support"]), _rows(batch["query"]), strict=True)
    ]


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
    pairs = _pairs(
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


def test_tasks_of_similar_length_share_a_batch(write):
    lengths = [2, 30, 4, 28, 3, 29, 1, 31]
    batches = list(
        task_dataset(
            write([(n, -1) for n in lengths]), ENCODER, 4, support_fraction=0.5
        ).as_numpy_iterator()
    )
    assert [b["support"]["weight"].shape for b in batches] == [(4, 2), (4, 16)]


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([8, 1, 1, 8, 2, 2, 2, 8], [[1, 1, 2, 2, 2], [8], [8], [8]]),  # sums 8, 16, 24, 32
        ([5, 5, 5, 5], [[5, 5], [5, 5]]),
        ([30, 1, 1], [[1, 1], [30]]),  # a long task has a batch to itself
        ([1, 1, 50, 60], [[1, 1, 50], [60]]),
        ([9, 90, 900, 9000, 1, 1], [[1, 1, 9, 90], [900], [9000]]),  # no batch is empty
        ([3], [[3]]),
    ],
)
def test_batches_by_rows_hold_about_as_many_samples_each(write, lengths, sizes):
    dataset = task_dataset(
        write([(n, -1) for n in lengths]), ENCODER, 2, support_fraction=0.5, by_rows=True
    )
    seen = [
        [len(s) + len(q) for s, q in zip(_rows(b["support"]), _rows(b["query"]), strict=True)]
        for b in dataset.as_numpy_iterator()
    ]
    assert seen == sizes


@pytest.mark.parametrize("by_rows", [False, True])
def test_all_epochs_have_the_same_number_of_batches(write, by_rows):
    path = write([(1 + 7 * n % 23, -1) for n in range(61)])
    dataset = task_dataset(path, ENCODER, 3, by_rows=by_rows, shuffle=True, seed=1)
    assert [len(list(dataset)) for _ in range(3)] == [21] * 3


def test_an_epoch_can_be_read_again_and_its_splits_depend_on_no_order(write):
    path, epoch = write([(9, -1)] * 50), tf.Variable(0, dtype=tf.int64)

    def pairs(number, shuffle=True):
        epoch.assign(number)
        return _pairs(
            task_dataset(
                *(path, ENCODER, 4),
                support_fraction=(0.1, 0.9),
                shuffle=shuffle,
                seed=3,
                epoch=epoch,
            )
        )

    first, second = pairs(0), pairs(1)
    tf.random.set_seed(7)  # the program's seed is another matter
    assert pairs(0) == first
    assert first != second
    assert sorted(pairs(1, shuffle=False)) == sorted(second) != sorted(first)


@pytest.mark.parametrize("files", [1, 5])
def test_shares_of_workers_hold_each_task_once_in_equally_many_batches(write, files):
    for n in range(files):
        path = write([(2 + n, -1)] * (7 + n), f"train-{n:05d}-of-{files:05d}.tfrecord.gz")
    pattern = path.replace(f"train-{files - 1:05d}", "train-*")
    total, counts, batches, seen = count_tasks(pattern), [], [], Counter()
    for worker in range(3):
        share = Share(worker, 3)
        counts.append(count_tasks(pattern, share))
        dataset = task_dataset(
            *(pattern, ENCODER, 4),
            shuffle=True,
            seed=1,
            epoch=tf.Variable(0, dtype=tf.int64),
            share=share,
            batches=[9],
        )
        pairs = [_rows(b["query"]) for b in dataset.as_numpy_iterator()]
        batches.append(len(pairs))
        seen.update(len(query) for batch in pairs for query in batch if query)
    assert tuple(map(sum, zip(*counts, strict=True))) == total
    assert batches == [9] * 3
    assert sum(seen.values()) == total[0]


def test_a_drawn_cut_differs_between_epochs_and_repeats_under_a_seed(write):
    path = write([(9, -1)] * 20)

    def epochs(seed):
        dataset = task_dataset(
            path, ENCODER, 8, support_fraction=(0.1, 0.9), shuffle=True, seed=seed
        )
        return [[len(support) for support, _ in _pairs(dataset)] for _ in range(2)]

    first, again, other = epochs(3), epochs(3), epochs(4)
    assert first == again
    assert first[0] != first[1]
    assert first != other
    assert len(set(first[0])) > 3, "each task has its own split time"


def test_shuffling_changes_the_order_from_epoch_to_epoch_and_loses_no_task(write, monkeypatch):
    monkeypatch.setattr(batch_reader, "BATCHES_PER_CHUNK", 2)
    dataset = task_dataset(write([(2, -1)] * 40), ENCODER, 2, shuffle=True, seed=0)
    one, two = ([query[0] // 100 for _, query in _pairs(dataset)] for _ in range(2))
    assert one != two
    assert Counter(one) == Counter(two) == Counter(range(40))


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


def test_the_last_batch_may_be_smaller(write):
    sizes = [
        len(b["query"]["label"])
        for b in task_dataset(write([(2, -1)] * 5), ENCODER, 2).as_numpy_iterator()
    ]
    assert sizes == [2, 2, 1]


def test_parsing_many_records_keeps_them_apart():
    records = [
        encode_task(SCHEMA, f"t{t}", task_rows(t, n), n // 2) for t, n in enumerate((2, 1, 4))
    ]
    tasks = parse_tasks(tf.constant(records), SCHEMA)
    assert tasks.task_key.numpy().tolist() == [b"t0", b"t1", b"t2"]
    assert tasks.query_start.numpy().tolist() == [1, 0, 2]
    assert tasks.splits.numpy().tolist() == [0, 2, 3, 7]
    assert tasks.columns["row_id"].numpy().tolist() == [0, 1, 100, 200, 201, 202, 203]
    assert tasks.columns["weight"].numpy().tolist() == [1.0] * 7


def test_a_further_number_or_category_costs_no_operations_of_its_own():
    """Each operation costs time, when the graph is built and again in every epoch."""

    def operations(each):
        features = [Feature(name=f"number{n}", role="meta", normalise="none") for n in range(each)]
        features += [
            Feature(name=f"code{n}", dtype="int64", encoding="vocabulary") for n in range(each)
        ]
        words = {f"code{n}": {"vocabulary": [5, 6], "counts": [2, 1]} for n in range(each)}
        encoder = FeatureEncoder(toy_schema(*features), toy_statistics(words))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def rows(serialized):
            return encode_rows(parse_tasks(serialized, encoder.schema), encoder)

        return len(rows.get_concrete_function().graph.get_operations())

    assert operations(8) == operations(3)


def test_rows_that_a_cap_drops_are_gone_before_anything_is_encoded():
    records = [
        encode_task(SCHEMA, f"t{t}", task_rows(t, n), start)
        for t, (n, start) in enumerate([(5, -1), (5, 3), (1, -1), (2, 0)])
    ]
    tasks = most_recent(parse_tasks(tf.constant(records), SCHEMA), 2)
    assert tasks.splits.numpy().tolist() == [0, 2, 6, 7, 9]
    assert tasks.columns["row_id"].numpy().tolist() == [3, 4, 101, 102, 103, 104, 200, 300, 301]
    assert tasks.query_start.numpy().tolist() == [-1, 2, -1, 0]


def test_batches_come_in_the_order_of_the_files_with_keys_and_by_length_without(write):
    """Blocks are parsed in parallel, but the order is the same every time."""
    path = write([(n % 7 + 1, -1) for n in range(100)])
    keyed = [
        key
        for batch in task_dataset(path, ENCODER, 3, with_keys=True).as_numpy_iterator()
        for key in batch["task_key"]
    ]
    assert keyed == [f"t{n}".encode() for n in range(100)]
    shuffled = task_dataset(path, ENCODER, 3, shuffle=True, seed=5)
    assert _pairs(task_dataset(path, ENCODER, 3, shuffle=True, seed=5)) == _pairs(shuffled)


def test_with_keys_out_of_order_the_same_tasks_come_by_length(write):
    path = write([(n % 7 + 5, n % 5) for n in range(40)])
    read = {}
    for in_order in (True, False):
        batches = list(task_dataset(path, ENCODER, 4, with_keys=True, in_order=in_order))
        parts = [(b["support"]["weight"].numpy(), b["query"]["weight"].numpy()) for b in batches]
        lengths = np.concatenate([sum((p > 0).sum(1) for p in both) for both in parts])
        keys = np.concatenate([b["task_key"] for b in batches])
        padded = sum(part.size for both in parts for part in both)
        read[in_order] = lengths, sorted(keys), padded
    assert read[True][1] == read[False][1]
    assert (np.diff(read[False][0][:32]) >= 0).all(), "eight batches are sorted at a time"
    assert read[False][2] < read[True][2]


def test_nothing_tunes_the_pipeline_so_that_an_epoch_ends_with_its_last_batch(write):
    assert task_dataset(write([(3, -1)]), ENCODER, 2).options().autotune.enabled is False
