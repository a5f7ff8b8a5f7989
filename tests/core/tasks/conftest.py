"""Record files of `numbered_rows`."""

from __future__ import annotations

import pytest
import tensorflow as tf
from numbered_rows import SCHEMA, task_rows

from tfrec_limaml.tasks.record_format import encode_task


@pytest.fixture
def write(tmp_path):
    """Writes records, given as ``(row count, query_start)``; returns the file's path."""

    def write(tasks, name="train-00000-of-00001.tfrecord.gz", schema=SCHEMA):
        path = tmp_path / name
        with tf.io.TFRecordWriter(str(path), "GZIP" if name.endswith(".gz") else "") as writer:
            for t, (count, start) in enumerate(tasks):
                writer.write(encode_task(schema, f"t{t}", task_rows(t, count), start))
        return str(path)

    return write
