"""Packed batches and the TFRecord stream."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limaml_beam import record_batches as rb


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
    with open(tmp_path / "ours", "wb") as file:
        rb.write_records(file, records)
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "ours"))] == records
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    with open(tmp_path / "theirs", "rb") as file:
        assert list(rb.read_records(file)) == records


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-3], "ends inside the record at byte 20"),
        (lambda c: c[:25], "ends inside the header"),
        (lambda c: c[:-6] + b"?" + c[-5:], "checksum of the record at byte 20"),
        (lambda c: c[:20] + b"\xff" + c[21:], "checksum of a record's length at byte 20"),
    ],
)
def test_damage_is_named_after_the_whole_records_were_read(damage, message):
    file = io.BytesIO()
    rb.write_records(file, [b"good", b"second"])
    reader = rb.read_records(io.BytesIO(damage(file.getvalue())))
    assert next(reader) == b"good"
    with pytest.raises(ValueError, match=message):
        next(reader)
