"""Which tasks share a batch, and the order of the batches, epoch after epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from numbered_rows import ENCODER, counted_rows, task_pairs

from tfrec_limaml.tasks import batch_reader
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_files import Share, count_tasks


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
        [
            len(s) + len(q)
            for s, q in zip(counted_rows(b["support"]), counted_rows(b["query"]), strict=True)
        ]
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
        return task_pairs(
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
        pairs = [counted_rows(b["query"]) for b in dataset.as_numpy_iterator()]
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
        return [[len(support) for support, _ in task_pairs(dataset)] for _ in range(2)]

    first, again, other = epochs(3), epochs(3), epochs(4)
    assert first == again
    assert first[0] != first[1]
    assert first != other
    assert len(set(first[0])) > 3, "each task has its own split time"


def test_shuffling_changes_the_order_from_epoch_to_epoch_and_loses_no_task(write, monkeypatch):
    monkeypatch.setattr(batch_reader, "BATCHES_PER_CHUNK", 2)
    dataset = task_dataset(write([(2, -1)] * 40), ENCODER, 2, shuffle=True, seed=0)
    one, two = ([query[0] // 100 for _, query in task_pairs(dataset)] for _ in range(2))
    assert one != two
    assert Counter(one) == Counter(two) == Counter(range(40))


def test_the_last_batch_may_be_smaller(write):
    sizes = [
        len(b["query"]["label"])
        for b in task_dataset(write([(2, -1)] * 5), ENCODER, 2).as_numpy_iterator()
    ]
    assert sizes == [2, 2, 1]


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
    assert task_pairs(task_dataset(path, ENCODER, 3, shuffle=True, seed=5)) == task_pairs(shuffled)


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
