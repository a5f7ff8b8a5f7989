"""The task-building job on Flink, Spark and Prism: the records of the in-process runner, whatever
engine shuffles the rows.
"""

import gzip
import json

import pytest

from tfrec_limaml.cli import main

pytestmark = pytest.mark.slow


def test_other_engines_write_the_records_of_the_direct_runner(
    tmp_path, shop_schema, shop_frames, write_raw, engine
):
    frames = shop_frames(rows=2000, members=60)
    raw = write_raw(tmp_path / "raw", shop_schema, frames)
    frames["interactions"].to_parquet(raw / "interactions.parquet", index=False, row_group_size=300)
    direct, there = tmp_path / "direct", tmp_path / "there"
    prepare = ["prepare", str(raw), "--max-samples", "7", "--max-query", "9"]
    assert main([*prepare, "--output", str(direct)]) == 0
    flags = [f"--beam={flag}" for flag in engine.flags]
    assert main([*prepare, "--output", str(there), *flags]) == 0
    assert engine.workers in (None, engine.pool.workers_started())
    records = sorted(path.relative_to(direct) for path in direct.rglob("*.tfrecord.gz"))
    assert records == sorted(path.relative_to(there) for path in there.rglob("*.tfrecord.gz"))
    assert sum(len(gzip.decompress((direct / path).read_bytes())) for path in records) > 100_000
    for path in records:
        assert gzip.decompress((there / path).read_bytes()) == gzip.decompress(
            (direct / path).read_bytes()
        ), path
    cards = [json.loads((folder / "data_card.json").read_text()) for folder in (direct, there)]
    for card in cards:
        # Sums of floats depend on the order of the rows in the last digits.
        card["history"] = {name: sorted(part) for name, part in card["history"].items()}
    assert cards[0] == cards[1]
