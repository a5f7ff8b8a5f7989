"""One text for a key value, in Python, in Arrow columns and in TensorFlow graphs."""

import datetime as dt
import decimal
import string
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_schema, toy_statistics

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.task_keys import decode_task_key, encode_task_key, key_text, task_key

ID = uuid.UUID("0123456789abcdef0123456789abcdef")
# value, its text (None: no key), the Arrow type of a column of such values
TABLE = [
    (7, "7", pa.int64()),
    (-1, "-1", pa.int8()),
    (2**62 + 1, str(2**62 + 1), pa.int64()),
    (2**64 - 1, str(2**64 - 1), pa.uint64()),
    (np.uint64(2**64 - 1), str(2**64 - 1), pa.uint64()),
    (7.0, "7", pa.float64()),
    (-0.0, "0", pa.float64()),
    (7.5, "7.5", pa.float64()),
    (np.float32(0.1), "0.10000000149011612", pa.float32()),
    (1e-7, "1e-07", pa.float64()),
    (2.0**53 - 1, "9007199254740991", pa.float64()),
    (2.0**53, None, pa.float64()),
    (float("nan"), None, pa.float64()),
    (float("inf"), None, pa.float64()),
    (True, "true", pa.bool_()),
    (np.False_, "false", pa.bool_()),
    (decimal.Decimal("7.00"), "7", pa.decimal128(20, 2)),
    (decimal.Decimal("7.50"), "7.5", pa.decimal128(20, 2)),
    (b"a|b", "a|b", pa.binary()),
    (np.bytes_(b"x"), "x", pa.large_binary()),
    (b"\xff\xfe", None, pa.binary()),
    (None, None, pa.string()),
    ("", None, pa.string()),
    (b"", None, pa.binary()),
    ("007", "007", pa.string()),
    ("7.0", "7.0", pa.string()),
    ("None", "None", pa.large_string()),
    (np.str_("x"), "x", pa.string()),
    (" x ", " x ", pa.string()),
    ("100%|", "100%|", pa.string()),
    ("Мария", "Мария", pa.string()),
    (ID, str(ID), pa.uuid()),
    (dt.date(2024, 1, 2), "2024-01-02", pa.date32()),
    (np.float16(7.5), "7.5", pa.float16()),
]


@pytest.mark.parametrize(("value", "text", "kind"), TABLE)
def test_a_key_value_has_the_same_text_in_python_and_in_arrow(value, text, kind):
    assert key_text(value) == text
    stored = value.bytes if isinstance(value, uuid.UUID) else value
    stored = stored.item() if isinstance(stored, np.generic) else stored
    column = pa.array([stored, None], kind)
    assert arrow_keys.as_keys(column).to_pylist() == [text, None]
    if kind not in (pa.uuid(), pa.float16()):  # Arrow has no dictionaries of these
        encoded = pa.chunked_array([column]).dictionary_encode()
        assert arrow_keys.as_keys(encoded).to_pylist() == [text, None]


def test_a_time_that_python_cannot_hold_is_no_key_value():
    column = pa.array([-(2**36), 0], pa.timestamp("s", "UTC"))
    assert arrow_keys.as_keys(column).to_pylist() == [None, "1970-01-01 00:00:00+00:00"]


@pytest.mark.parametrize("value", [pd.NA, pd.NaT, np.datetime64("NaT"), "\ud800", "a\udfff"])
def test_what_no_column_can_hold_is_no_key_value(value):
    assert key_text(value) is None


def test_uuids_of_fixed_size_binaries_meet_uuids_of_requests():
    column = pa.array([ID.bytes, None], pa.binary(16))
    assert arrow_keys.as_keys(column).to_pylist() == [key_text(ID), None]
    assert arrow_keys.as_keys(pa.array([b"abc"], pa.binary(3))).to_pylist() == ["abc"]


def test_a_column_of_floats_gives_each_value_its_own_text_whatever_stands_beside_it():
    assert arrow_keys.as_keys(pa.array([7.0, 7.5])).to_pylist() == ["7", "7.5"]
    assert arrow_keys.as_keys(pa.array([7.0, None, 2.0**60])).to_pylist() == ["7", None, None]


@given(st.lists(st.one_of(st.floats(), st.none())))
def test_floats_agree_in_python_and_arrow(values):
    assert arrow_keys.as_keys(pa.array(values, pa.float64())).to_pylist() == [
        key_text(value) for value in values
    ]


@given(st.lists(st.tuples(st.one_of(st.text(max_size=3), st.none()), st.text(alphabet="|%a"))))
def test_joined_keys_agree_in_python_and_arrow(rows):
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    if rows:
        joined = arrow_keys.join_keys([arrow_keys.as_keys(column) for column in columns])
        assert joined.to_pylist() == [task_key(row) for row in rows]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.text(alphabet="|%27a", min_size=1), st.integers(-(2**63), 2**63 - 1))))
def test_graphs_join_nested_keys_alike(values):
    import tensorflow as tf

    from tfrec_limaml.schema.schema import Feature
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    for dtype, kind in (("string", str), ("int64", int)):
        chosen = [value for value in values if isinstance(value, kind)]
        schema = toy_schema(
            Feature(name="x", role="meta"),
            Feature(name="tab", dtype=dtype, encoding="hash", buckets=2),
            label="y",
            timestamp="t",
            tasks={"user": ("user",), "part": ("user", "tab")},
        )
        statistics = toy_statistics()
        encoder = FeatureEncoder(schema, statistics, nested=("part",))
        texts = encoder.further_key("part", {"tab": tf.constant(chosen, dtype)}).numpy().tolist()
        assert [f"u|{text.decode()}" for text in texts] == [task_key(["u", v]) for v in chosen]


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        (["k" * 511], True),
        (["k" * 512], False),
        (["ü" * 255], True),
        (["ü" * 256], False),
        (["%" * 170], True),  # escaped it has 510 bytes
        (["%" * 171], False),
        (["a" * 255, "b" * 255], True),
        (["a" * 256, "b" * 255], False),
    ],
)
def test_keys_that_no_store_can_hold_are_none(values, fits):
    joined = arrow_keys.join_keys([pa.array([value]) for value in values])
    assert arrow_keys.fits(joined).tolist() == [fits]
    assert (task_key(values) is not None) == fits


def test_a_key_that_must_be_there_names_what_it_was_made_of():
    with pytest.raises(LimamlError, match=r"no task key can be built from \['a', None\]"):
        encode_task_key(["a", None])
    for nested in ([1], {"a": 1}, np.ones(2)):
        with pytest.raises(LimamlError, match="a task key needs"):
            key_text(nested)


@given(
    st.lists(
        st.text(alphabet="|%27C5aü" + string.whitespace, min_size=1, max_size=20),
        min_size=1,
        max_size=4,
    )
)
def test_task_keys_round_trip_whatever_the_values_hold(values):
    assert decode_task_key(encode_task_key(values)) == tuple(values)


@given(*[st.lists(st.text(alphabet="|%27C5", min_size=1), min_size=1, max_size=3)] * 2)
def test_different_key_values_make_different_task_keys(one, other):
    assert (task_key(one) == task_key(other)) == (one == other)
