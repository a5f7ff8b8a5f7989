"""The fast encoder of task records against the plain one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from limaml_beam.io.tfrecords import frame_record, frame_records
from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.task_encoder import TaskEncoder

SCHEMA = Schema(
    name="s",
    label=Label(name="y", kind="regression"),
    timestamp="t",
    tasks={"u": ("u",)},
    weight="w",
    carry=("dwell",),
    features=(
        Feature(name="text", dtype="string", encoding="vocabulary", role="meta"),
        Feature(name="number", dtype="int64", encoding="hash", buckets=3),
        Feature(name="real"),
        Feature(name="vector", width=40),
        Feature(name="whole", width=2, dtype="int64"),
        Feature(name="ünïcode"),
    ),
)
ROWS = 12
int64 = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 300),
    st.sampled_from([2**7, 2**14, 2**56, 2**62]),
)
float32 = st.floats(width=32, allow_nan=True)


@settings(deadline=None, max_examples=30)
@given(
    st.fixed_dictionaries(
        {
            "text": st.lists(st.text(max_size=200), min_size=ROWS, max_size=ROWS),
            "number": arrays.arrays(np.int64, ROWS, elements=int64),
            "real": arrays.arrays(np.float32, ROWS, elements=float32),
            "vector": arrays.arrays(np.float32, (ROWS, 40), elements=float32),
            "whole": arrays.arrays(np.int64, (ROWS, 2), elements=int64),
            "ünïcode": arrays.arrays(np.float32, ROWS, elements=float32),
            "label": arrays.arrays(np.float32, ROWS, elements=float32),
            "weight": arrays.arrays(np.float32, ROWS, elements=float32),
            "dwell": arrays.arrays(np.float32, ROWS, elements=float32),
            "timestamp": arrays.arrays(np.int64, ROWS, elements=int64),
        }
    ),
    st.text(max_size=20),
    st.integers(0, ROWS),
    st.integers(0, ROWS),
    st.integers(-1, ROWS),
)
def test_the_fast_encoder_writes_the_same_bytes(columns, key, one, two, query_start):
    start, stop = min(one, two), max(one, two)
    rows = [
        {name: values[index] for name, values in columns.items()} for index in range(start, stop)
    ]
    assert TaskEncoder(SCHEMA, columns).encode(key, start, stop, query_start) == encode_task(
        SCHEMA, key, rows, query_start
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.text(max_size=150), st.integers(0, 2), st.integers(0, 4), st.integers(-1, 4)),
        max_size=5,
    ),
    st.sampled_from(["plain", "arrow", "dictionary", "slice of a dictionary"]),
)
def test_many_tasks_at_once_are_the_same_bytes_as_one_after_another(tasks, kind):
    draw = np.random.default_rng(0)
    text = ["", "ä" * 70, "x", "y" * 300] * 10
    columns = {
        "text": text,
        "number": draw.integers(-5, 2**40, 40),
        "real": draw.random(40, np.float32),
        "vector": draw.random((40, 40), np.float32),
        "whole": draw.integers(0, 300, (40, 2)),
        "ünïcode": draw.random(40, np.float32),
        "label": draw.random(40, np.float32),
        "weight": draw.random(40, np.float32),
        "dwell": draw.random(40, np.float32),
        "timestamp": draw.integers(2**40, 2**41, 40),
    }
    if kind != "plain":
        columns["vector"] = pa.FixedSizeListArray.from_arrays(
            pa.array(columns["vector"].ravel()), 40
        )
        columns["number"] = pa.chunked_array(
            [pa.array(columns["number"][:7]), pa.array(columns["number"][7:])]
        )
        columns["text"] = pa.array(text)
    if kind == "dictionary":
        columns["text"] = pa.DictionaryArray.from_arrays(
            columns["text"].dictionary_encode().indices.cast(pa.int8()), text[:4]
        )
    if kind == "slice of a dictionary":
        many = pa.array([*text, *map(str, range(500))]).dictionary_encode()
        columns["text"] = many.slice(0, 40)
    # Gaps and lengths: tasks in order, without overlap, some of them empty.
    lengths = np.array([(gap, count) for _, gap, count, _ in tasks], np.int64).reshape(-1)
    edges = np.cumsum(lengths)
    starts, stops = edges[0::2], edges[1::2]
    keys, split_times = (
        [key for key, *_ in tasks],
        np.array([split_time for *_, split_time in tasks], np.int64),
    )
    encoder = TaskEncoder(SCHEMA, columns)
    found = encoder.encode_tasks(pa.array(keys, pa.string()), starts, stops, split_times)
    values = {
        name: column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else column
        for name, column in columns.items()
    }
    expected = [
        encode_task(
            SCHEMA,
            key,
            [{name: column[row] for name, column in values.items()} for row in range(start, stop)],
            split_time,
        )
        for key, start, stop, split_time in zip(
            keys, starts.tolist(), stops.tolist(), split_times.tolist(), strict=True
        )
    ]
    assert found.to_pylist() == expected
    assert frame_records(found) == b"".join(map(frame_record, expected))
