"""Columns side by side, integer vocabularies in one table: against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.tasks.categories import IntegerTable, multi_hot
from tfrec_limaml.tasks.columns import Columns, Lengths, Part, RepeatedColumns, concatenate_parts

RAW = {
    "a": np.arange(4),
    "b": np.array([7]),
    "c": np.array([[1, 2]]),
    "d": np.arange(8).reshape(4, 2) + 20,
    "e": np.array([9]),
    "f": np.arange(4) * 100,
}


def _whole(name):
    value = RAW[name].reshape(len(RAW[name]), -1)
    return np.broadcast_to(value, (4, value.shape[1]))


@pytest.mark.parametrize("names", ["ab", "abcdef", "fa", "e", "be", "cd"])
def test_columns_of_one_row_stand_for_all_rows_beside_the_others(names):
    columns = {name: tf.constant(value, tf.int32) for name, value in RAW.items()}
    lengths = Lengths.measure(columns)
    repeat_row = RepeatedColumns(columns, lengths, tf.constant(4))
    expected = np.concatenate([_whole(name) for name in names], 1)
    actual = repeat_row.side_by_side(list(names), tf.float32)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == tf.float32
    plain = Columns({name: repeat_row[name] for name in names})
    np.testing.assert_array_equal(plain.side_by_side(list(names), tf.int32), expected)


def test_lengths_are_those_of_columns_of_any_type():
    columns = {
        "text": tf.constant(["x"]),
        "numbers": tf.zeros([3, 2]),
        "other": tf.zeros([4]),
        "flag": tf.constant([True, False]),
    }
    lengths = Lengths.measure(columns)
    assert dict(zip(lengths.names, lengths.values.numpy().tolist(), strict=True)) == {
        "text": 1,
        "numbers": 3,
        "other": 4,
        "flag": 2,
    }
    assert lengths.select(["other", "text"]).numpy().tolist() == [4, 1]


def test_parts_that_lie_side_by_side_are_taken_at_once():
    one, two = tf.reshape(tf.range(12), [2, 6]), tf.constant([[50], [51]])
    whole = [Part(one, 0, 2), Part(one, 2, 3), Part(one, 5, 1)]
    assert concatenate_parts(whole) is one
    mixed = concatenate_parts([Part(one, 4, 2), Part(two, 0, 1), Part(one, 1, 1), Part(one, 2, 1)])
    np.testing.assert_array_equal(mixed, [[4, 5, 50, 1, 2], [10, 11, 51, 7, 8]])


def test_one_table_knows_each_feature_s_tokens_and_no_other_s():
    largest = IntegerTable.largest(3)
    vocabularies = {"a": [5, -7, largest], "b": [0], "c": [-largest, 5]}
    table = IntegerTable(vocabularies)
    edges = [2**63 - 1, -(2**63), largest + 1, -largest - 1, 2**62, 1, -1]
    values = sorted({*edges, *(token for tokens in vocabularies.values() for token in tokens)})
    names = ["c", "a", "b"]
    expected = [
        [vocabularies[n].index(v) + 1 if v in vocabularies[n] else 0 for n in names] for v in values
    ]
    assert sum(map(bool, np.ravel(expected))) == 6
    given = tf.constant([[v] * 3 for v in values], tf.int64)
    np.testing.assert_array_equal(table.ids(names, given), expected)


def test_a_value_whose_key_would_overflow_to_that_of_a_token_is_unknown():
    table = IntegerTable({"a": [5], "b": [6]})
    beyond = 5 - 2**63  # twice this is 10 modulo 2**64, as twice 5 is
    ids = table.ids(["a", "b"], tf.constant([[5, 6], [beyond, beyond + 1]], tf.int64))
    np.testing.assert_array_equal(ids, [[1, 1], [0, 0]])


def test_hot_places_of_several_features_lie_side_by_side():
    ids = np.array([[0, 2, 1], [3, 0, 1]])
    sizes = [4, 3, 2]
    expected = np.concatenate([np.eye(size)[ids[:, i]] for i, size in enumerate(sizes)], 1)
    hot = multi_hot(tf.constant(ids, tf.int64), sizes)
    np.testing.assert_array_equal(hot, expected)
    assert hot.dtype == tf.float32
