"""The fast encoder of task records against the plain one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrec_limaml.records import TaskEncoder, encode_task
from tfrec_limaml.schema import Feature, Label, Schema

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
int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 300), st.sampled_from([2**7, 2**14, 2**56, 2**62]))
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
    rows = [{name: values[index] for name, values in columns.items()} for index in range(start, stop)]
    assert TaskEncoder(SCHEMA, columns).encode(key, start, stop, query_start) == encode_task(SCHEMA, key, rows, query_start)
