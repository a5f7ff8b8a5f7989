"""Task records: what is written is what TensorFlow reads, one row or many columns at a time."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.parsing import parse_tasks
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.task_encoder import TaskEncoder

SCHEMA = Schema(
    name="wire",
    label=Label(name="y"),
    timestamp="t",
    tasks={"u": ("u",)},
    weight="importance",
    carry=("dwell",),
    features=(
        Feature(name="x", role="meta"),
        Feature(name="n", dtype="int64", encoding="hash", buckets=3),
        Feature(name="s p", dtype="string", encoding="hash", buckets=3),
        Feature(name="vector", width=2),
        Feature(name="counts", dtype="int64", width=2),
    ),
)
FLOATS = st.floats(width=32)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
ROW = st.fixed_dictionaries(
    {
        "x": FLOATS,
        "n": INTEGERS,
        "s p": st.text(max_size=200) | st.binary(max_size=5),
        "vector": st.lists(FLOATS, min_size=2, max_size=2),
        "counts": st.lists(INTEGERS, min_size=2, max_size=2),
        "label": FLOATS,
        "weight": FLOATS,
        "dwell": FLOATS,
        "timestamp": INTEGERS,
    }
)
ONE_ROW = {
    "x": 1,
    "n": 2,
    "s p": "a",
    "vector": [0, 1],
    "counts": [3, 4],
    "label": 1,
    "weight": 1,
    "dwell": 0,
    "timestamp": 5,
}


@settings(max_examples=30)
@given(st.text(), st.lists(ROW, min_size=1, max_size=4), st.data())
def test_every_value_is_read_as_it_was_written_and_both_encoders_agree(key, rows, data):
    start = data.draw(st.integers(-1, len(rows)))
    record = encode_task(SCHEMA, key, rows, start)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert TaskEncoder(SCHEMA, columns).encode(key, 0, len(rows), start) == record
    tasks = parse_tasks(tf.constant([record]), SCHEMA)
    assert tasks.task_key.numpy().tolist() == [key.encode()]
    assert tasks.query_start.numpy().tolist() == [start]
    assert tasks.counts.numpy().tolist() == [len(rows)]
    for name, values in columns.items():
        found = tasks.columns[name].numpy()
        if name == "s p":
            assert found.tolist() == [v if isinstance(v, bytes) else v.encode() for v in values]
        else:
            np.testing.assert_array_equal(found, np.array(values, found.dtype), err_msg=name)


def test_a_record_is_a_sequence_example_whose_context_names_key_count_and_split():
    context = tf.train.SequenceExample.FromString(
        encode_task(SCHEMA, "ä|b", [ONE_ROW] * 3, 2)
    ).context.feature
    found = (
        context["task_key"].bytes_list.value[0].decode(),
        context["sample_count"].int64_list.value[0],
        context["query_start"].int64_list.value[0],
    )
    assert found == ("ä|b", 3, 2)


@pytest.mark.parametrize("left_out", ["x", "label", "weight", "dwell", "timestamp"])
def test_a_row_that_lacks_a_column_is_not_written(left_out):
    row = dict(ONE_ROW)
    del row[left_out]
    with pytest.raises(KeyError, match=left_out):
        encode_task(SCHEMA, "a", [row])
