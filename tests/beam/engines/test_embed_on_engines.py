"""The embedding job on Flink and Spark (a real job server, its embedded cluster, two SDK worker
processes) and on Prism.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.job import generate

pytestmark = pytest.mark.slow


def read(folder: str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, tables.embedding_files(folder))).sort_by("task_key")


def test_other_engines_make_the_embeddings_of_the_direct_runner(job, engine):
    direct = generate(job)
    there = dataclasses.replace(job, output=f"{job.output}-there")
    report = generate(there, engine.flags)
    assert engine.workers in (None, engine.pool.workers_started())
    counts = ("rows", "tasks_read", "embedded", "dead_letters")
    assert [report[name] for name in counts] == [direct[name] for name in counts]
    expected, found = read(job.output), read(there.output)
    assert found.drop(["embedding", "loss_before", "loss_after"]).equals(
        expected.drop(["embedding", "loss_before", "loss_after"])
    )
    for name in ("embedding", "loss_before", "loss_after"):
        # Batches differ only where the engine's bundles do; padding may move the last bit.
        pairs = (np.array(table[name].to_pylist(), np.float32) for table in (found, expected))
        np.testing.assert_allclose(*pairs, rtol=1e-5, atol=1e-6)
