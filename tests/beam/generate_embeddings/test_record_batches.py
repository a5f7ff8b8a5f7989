"""Packed batches and the TFRecord stream."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limaml_beam.generate_embeddings import record_batches as rb
from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.tfrecords import frame_record, read_records
from tfrec_limaml.tasks.task_encoder import TaskEncoder


def varint(number):
    low, shift = bytearray(), max(number.bit_length() - 1, 0) // 7 * 7
    low.extend((number >> n) & 127 | 128 for n in range(0, shift, 7))
    return bytes(low) + bytes([number >> shift])


def entry(values):
    """The context entry of a feature ``int64_list { values }``, as the wire has it."""
    feature = bytes([0x1A, len(values)]) + values
    content = b"\x0a\x0csample_count\x12" + bytes([len(feature)]) + feature
    return bytes([0x0A, len(content)]) + content


def stating(count):
    """The start of a record that states a number of samples, by protobuf's own library."""
    from tensorflow.core.example import example_pb2

    record = example_pb2.SequenceExample()
    record.context.feature["sample_count"].int64_list.value.append(count)
    return record.SerializeToString()


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=30))
def test_packing_is_undone_by_unpacking(records):
    assert rb.unpack(rb.pack(records)) == records


@given(
    st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=30)), max_size=60),
    st.integers(1, 40),
)
def test_batches_hold_every_record_once_and_tasks_of_similar_length(tasks, batch_size):
    records = [stating(count) + rest for count, rest in tasks]
    batches = list(rb.batches_by_width(records, batch_size))
    assert sorted(record for batch in batches for record in batch) == sorted(records)
    for batch in batches:
        (width,) = {rb.sample_width(rb.sample_count(record)) for record in batch}
        assert 1 <= len(batch) <= rb.max_tasks(width, batch_size)


def test_tasks_that_wait_for_others_of_their_length_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(rb, "BLOCK_BYTES", 1000)
    records = [stating(count) + bytes(200) for count in range(1, 101) for _ in range(2)]
    read = []
    batches = rb.batches_by_width((read.append(r) or r for r in records), batch_size=1000)
    first = next(batches)
    assert len(read) < len(records) // 4
    assert sorted([*first, *(record for batch in batches for record in batch)]) == sorted(records)


@given(st.integers(0, 2**40))
def test_the_sample_count_is_read_from_the_bytes_of_either_encoding(count):
    assert rb.sample_count(stating(count) + b"...") == count
    packed, unpacked = bytes([10, len(varint(count))]) + varint(count), b"\x08" + varint(count)
    for values in (packed, unpacked):
        assert rb.sample_count(b"before" + entry(values) + b"\x0a\x01after") == count
    assert rb.sample_count(b"junk") == 0


def test_the_sample_count_of_both_encoders_is_found(schema, make_rows, encode):
    for count in (1, 5, 200):
        rows = make_rows([1.0] * count)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        assert rb.sample_count(encode("member", [1.0] * count)) == count
        assert rb.sample_count(TaskEncoder(schema, columns).encode("member", 0, count)) == count


@given(st.integers(1, 1 << 21))
def test_padding_adds_a_quarter_at_most_and_long_tasks_come_in_smaller_batches(count):
    width = rb.sample_width(count)
    assert count <= width <= max(8, 1.25 * count)
    assert rb.max_tasks(width, 512) == (512 if width <= 256 else max(1, rb.BATCH_ROWS // width))


def test_a_heavy_task_gets_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(rb, "BATCH_BYTES", 100)
    batches = list(rb.batches_by_width([b"x" * 20, b"y" * 20, b"z" * 90], 512))
    assert [len(batch) for batch in batches] == [2, 1]


def test_blocks_bound_the_bytes_that_are_held(monkeypatch):
    monkeypatch.setattr(rb, "BLOCK_BYTES", 100)
    drawn = []

    def source():
        for n in range(100):
            drawn.append(n)
            yield bytes(10)

    next(rb.batches_by_width(source(), 4))
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
    [
        lambda c: c[:-3],
        lambda c: c[:25],
        lambda c: c[:-6] + b"?" + c[-5:],
        lambda c: c[:20] + b"\xff" + c[21:],
    ],
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
