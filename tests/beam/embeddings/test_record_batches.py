"""Packed batches and the TFRecord stream."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml_beam import record_batches as rb
from limaml_beam.sources import SourceError, frame_record, read_records


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=30))
def test_packing_is_undone_by_unpacking(records):
    assert rb.unpack(rb.pack(records)) == records


@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(1, 7))
def test_batches_hold_every_record_once_sorted_by_length(records, batch_size):
    batches = list(rb.batches_by_length(records, batch_size))
    flat = [record for batch in batches for record in batch]
    assert sorted(flat) == sorted(records)
    assert [len(r) for r in flat] == sorted(len(r) for r in records)
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_a_heavy_task_gets_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(rb, "BATCH_BYTES", 100)
    batches = list(rb.batches_by_length([b"x" * 90, b"y" * 20, b"z" * 20], 512))
    assert [len(batch) for batch in batches] == [2, 1]


def test_blocks_bound_the_bytes_that_are_held(monkeypatch):
    monkeypatch.setattr(rb, "BLOCK_BYTES", 100)
    drawn = []

    def source():
        for n in range(100):
            drawn.append(n)
            yield bytes(10)

    next(rb.batches_by_length(source(), 4))
    assert len(drawn) <= 20


def test_tensorflow_reads_what_is_written_and_the_other_way_round(tmp_path):
    import tensorflow as tf

    records = [b"", b"abc", bytes(range(256)) * 10]
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    (tmp_path / "ours").write_bytes(b"".join(map(frame_record, records)))
    assert [r.numpy() for r in tf.data.TFRecordDataset(ours)] == records
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    assert list(read_records(theirs)) == records


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-3], lambda c: c[:25], lambda c: c[:-6] + b"?" + c[-5:], lambda c: c[:20] + b"\xff" + c[21:]],
    ids=["cut body", "cut header", "wrong byte", "wrong length"],
)
def test_damage_is_named_after_the_whole_records_were_read(damage, tmp_path):
    path = tmp_path / "records"
    path.write_bytes(damage(frame_record(b"good") + frame_record(b"second")))
    reader = read_records(str(path))
    assert next(reader) == b"good"
    with pytest.raises(SourceError, match="record 1"):
        next(reader)


def test_a_truncated_gzip_file_is_never_taken_for_a_shorter_one(tmp_path):
    whole = gzip.compress(b"".join(frame_record(b"%d" % n * 1000) for n in range(200)))
    path = tmp_path / "records.gz"
    for cut in range(1, len(whole) - 20, len(whole) // 40):
        path.write_bytes(whole[:-cut])
        with pytest.raises((SourceError, EOFError)):
            list(read_records(str(path)))
