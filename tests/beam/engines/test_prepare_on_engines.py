"""The task-building job on Flink: the records of the in-process runner, whatever engine shuffles
the rows.
"""

import gzip
import json

import pytest

from tfrec_limaml.cli import main

pytestmark = [pytest.mark.flink, pytest.mark.slow]


def test_two_worker_processes_under_flink_write_the_records_of_the_direct_runner(
    tmp_path, shop_schema, shop_frames, write_raw, flink_flags, worker_pool
):
    frames = shop_frames(rows=2000, members=60)
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    frames["interactions"].to_parquet(raw / "interactions.parquet", index=False, row_group_size=300)
    direct, flink = tmp_path / "direct", tmp_path / "flink"
    prepare = ["prepare", str(raw), "--max-samples", "7", "--max-query", "9"]
    assert main([*prepare, "--output", str(direct)]) == 0
    assert (
        main([*prepare, "--output", str(flink), *(f"--beam={flag}" for flag in flink_flags)]) == 0
    )
    assert worker_pool.workers_started() == 2
    records = sorted(path.relative_to(direct) for path in direct.rglob("*.tfrecord.gz"))
    assert records == sorted(path.relative_to(flink) for path in flink.rglob("*.tfrecord.gz"))
    assert sum(len(gzip.decompress((direct / path).read_bytes())) for path in records) > 100_000
    for path in records:
        assert gzip.decompress((flink / path).read_bytes()) == gzip.decompress(
            (direct / path).read_bytes()
        ), path
    cards = [json.loads((folder / "data_card.json").read_text()) for folder in (direct, flink)]
    for card in cards:
        # Sums of floats depend on the order of the rows in the last digits.
        card["history"] = {name: sorted(part) for name, part in card["history"].items()}
    assert cards[0] == cards[1]
