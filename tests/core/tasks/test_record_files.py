"""Reading task records from several files at once."""

from __future__ import annotations

import itertools
import os

import pytest
import tensorflow as tf
from numbered_rows import ENCODER, task_pairs

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks import batch_reader, record_files
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_files import Share, compression, count_tasks, read_records


@pytest.fixture
def files(tmp_path):
    """``files(3, 0, 2)``: paths of compressed files with so many records, ``b"file:number"``."""

    def write(*counts):
        paths = [str(tmp_path / f"{file}.tfrecord.gz") for file in range(len(counts))]
        for file, count in enumerate(counts):
            with tf.io.TFRecordWriter(paths[file], "GZIP") as writer:
                for number in range(count):
                    writer.write(f"{file}:{number}".encode())
        return paths

    return write


def listed(file, start, stop):
    return [f"{file}:{number}".encode() for number in range(start, stop)]


def read(paths, **options):
    return list(read_records(paths, **options).as_numpy_iterator())


def test_files_that_are_read_in_parallel_take_turns_in_blocks(files, monkeypatch):
    monkeypatch.setattr(record_files, "_BLOCK", 3)
    records = read(files(7, 0, 2, 4), in_order=False)
    first = [*listed(0, 0, 3), *listed(2, 0, 2), *listed(3, 0, 3)]
    assert records == [*first, *listed(0, 3, 6), *listed(3, 3, 4), *listed(0, 6, 7)]


def test_more_files_than_readers_follow_each_other_in_each_reader(files, monkeypatch):
    monkeypatch.setattr(record_files, "_BLOCK", 2)
    monkeypatch.setattr(record_files, "READERS", 2)
    records = read(files(1, 2, 2, 1), in_order=False)  # readers of files 0, 2 and of files 1, 3
    assert records == [
        *(b"0:0", b"2:0"),
        *(b"1:0", b"1:1"),
        *(b"2:1",),
        *(b"3:0",),
    ]


def test_in_order_the_files_follow_each_other(files):
    assert read(files(200, 2, 100)) == [*listed(0, 0, 200), *listed(1, 0, 2), *listed(2, 0, 100)]


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_that_read_in_parallel_have_each_record_once(files, workers):
    paths = files(70, 3, 0, 130)
    shares = [read(paths, share=Share(n, workers), in_order=False) for n in range(workers)]
    expected = [*listed(0, 0, 70), *listed(1, 0, 3), *listed(3, 0, 130)]
    assert sorted(itertools.chain(*shares)) == sorted(expected)


@pytest.mark.parametrize("epoch", [None, 0])
def test_the_order_of_the_tasks_is_the_same_on_each_number_of_processor_cores(
    write, tmp_path, monkeypatch, epoch
):
    for file in range(3):
        write([(2 + n % 7, -1) for n in range(150)], name=f"part-{file}.tfrecord")
    number = None if epoch is None else tf.Variable(epoch, dtype=tf.int64)

    def pairs(cores):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        dataset = task_dataset(
            str(tmp_path / "part-*"), ENCODER, 4, shuffle=True, seed=1, epoch=number
        )
        return task_pairs(dataset)

    assert len(pairs(1)) == 450
    assert pairs(1) == pairs(16)


def test_tasks_of_all_files_are_counted(write, tmp_path):
    for file, tasks in enumerate((70, 1, 90)):
        write([(3, -1)] * tasks, name=f"part-{file}.tfrecord")
    assert count_tasks(str(tmp_path / "part-*"))[0] == 161


@pytest.mark.parametrize(
    ("cores", "tasks", "expected"),
    [(1, 1024, 2), (6, 1024, 6), (64, 1024, 16), (64, 2**14, 2), (None, 1, 2)],
)
def test_as_many_chunks_are_parsed_at_once_as_there_are_cores_within_a_limit_of_tasks(
    monkeypatch, cores, tasks, expected
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert batch_reader._at_once(batch_reader._PARSED_AT_ONCE, tasks) == expected


def test_files_with_and_without_compression_are_not_read_together():
    assert compression(["a.tfrecord.gz", "b.tfrecord.gz"]) == "GZIP"
    assert compression(["a.tfrecord"]) == compression([]) == ""
    with pytest.raises(LimamlError, match=r"such as a\.tfrecord\.gz and b\.tfrecord; remove"):
        compression(["a.tfrecord.gz", "b.tfrecord"])
