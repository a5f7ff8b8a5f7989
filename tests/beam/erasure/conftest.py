"""Outputs and a store from which keys are erased."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from erasure_world import records_in

from limaml_beam.erasure.record_rows import task_key_of
from limaml_beam.generate_embeddings import tables
from tfrec_limaml.cli import main
from tfrec_limaml.store import open_store

RAW_DATES = ("--recent-only", "--window-end", "2024-01-11")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, shop_schema, shop_frames, write_raw):
    """Raw data with some bad rows, and the task records that were made of them."""
    folder = tmp_path_factory.mktemp("shop")
    frames = shop_frames()
    log = frames["interactions"].astype({"opened": object})
    log.loc[log.index[:6], "member"] = [3, 3, 4, 4, 5, 13]
    log.loc[log.index[:6], "opened"] = "what?"
    frames["interactions"] = log.astype({"opened": str})
    raw = write_raw(folder / "raw", shop_schema, frames)
    assert main(["prepare", str(raw), "--output", str(folder / "tasks"), *RAW_DATES]) == 0
    return folder


@pytest.fixture
def world(tmp_path, prepared):
    """A copy of the task records, embeddings with dead letters, a store, and their manifest."""
    shutil.copytree(prepared / "tasks", tmp_path / "tasks")
    keys = [str(n) for n in range(6)] + ["3|mail", "30"]
    output = tmp_path / "work" / "g1"
    (output / "dead_letters").mkdir(parents=True)
    pq.write_table(_embeddings(keys), output / "embeddings-00.parquet")
    records = records_in(tmp_path / "tasks" / "member")
    refused = [next(r for r in records if task_key_of(r) == k) for k in (b"3", b"4")]
    letters = tables.dead_letter_table(
        ["not_finite"] * 4, ["why"] * 4, [*refused, b"\xffmember 3 \xff", b"member 33"]
    )
    pq.write_table(letters, output / "dead_letters" / "part-0.parquet")
    (output / "report.json").write_text(json.dumps({"generation": "g1", "rows": len(keys)}))
    (tmp_path / "outputs.yaml").write_text(yaml.safe_dump(["tasks", "work"]))
    with open_store(f"lmdb:{tmp_path}/store").new_generation(1, 2, "g1") as writer:
        writer.put(keys, np.ones((len(keys), 2), np.float32))
        writer.publish(len(keys))
    return tmp_path


def _embeddings(keys):
    return tables.embeddings_table(
        keys=keys,
        definitions=["member"] * len(keys),
        embeddings=np.ones((len(keys), 2), np.float32),
        timestamps=np.arange(len(keys)),
        sample_counts=np.ones(len(keys), np.int64),
        losses=None,
        digests=[bytes(16)] * len(keys),
        model_version=1,
        generation="g1",
    )
