"""The embedding job on Flink: a real job server, its embedded cluster, and two SDK worker
processes.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.job import generate

pytestmark = [pytest.mark.flink, pytest.mark.slow]


def read(folder: str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, tables.embedding_files(folder))).sort_by("task_key")


def test_two_worker_processes_under_flink_make_the_embeddings_of_the_direct_runner(
    job, flink_flags, worker_pool
):
    direct = generate(job)
    on_flink = dataclasses.replace(job, output=f"{job.output}-on-flink")
    report = generate(on_flink, flink_flags)
    assert worker_pool.workers_started() == 2
    counts = ("rows", "tasks_read", "embedded", "dead_letters")
    assert [report[name] for name in counts] == [direct[name] for name in counts]
    expected, found = read(job.output), read(on_flink.output)
    assert found.drop(["embedding", "loss_before", "loss_after"]).equals(
        expected.drop(["embedding", "loss_before", "loss_after"])
    )
    for name in ("embedding", "loss_before", "loss_after"):
        # Batches differ only where Flink's bundles do; padding may move the last bit.
        pairs = (np.array(table[name].to_pylist(), np.float32) for table in (found, expected))
        np.testing.assert_allclose(*pairs, rtol=1e-5, atol=1e-6)
