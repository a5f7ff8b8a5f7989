"""Serialized task records to columns."""

from __future__ import annotations

import tensorflow as tf
from numbered_rows import SCHEMA, task_rows
from toys import toy_schema, toy_statistics

from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.parsing import encode_rows, most_recent, parse_tasks
from tfrec_limaml.tasks.record_format import encode_task


def test_parsing_many_records_keeps_them_apart():
    records = [
        encode_task(SCHEMA, f"t{t}", task_rows(t, n), n // 2) for t, n in enumerate((2, 1, 4))
    ]
    tasks = parse_tasks(tf.constant(records), SCHEMA)
    assert tasks.task_key.numpy().tolist() == [b"t0", b"t1", b"t2"]
    assert tasks.query_start.numpy().tolist() == [1, 0, 2]
    assert tasks.splits.numpy().tolist() == [0, 2, 3, 7]
    assert tasks.columns["row_id"].numpy().tolist() == [0, 1, 100, 200, 201, 202, 203]
    assert tasks.columns["weight"].numpy().tolist() == [1.0] * 7


def test_a_further_number_or_category_costs_no_operations_of_its_own():
    """Each operation costs time, when the graph is built and again in every epoch."""

    def operations(each):
        features = [Feature(name=f"number{n}", role="meta", normalise="none") for n in range(each)]
        features += [
            Feature(name=f"code{n}", dtype="int64", encoding="vocabulary") for n in range(each)
        ]
        words = {f"code{n}": {"vocabulary": [5, 6], "counts": [2, 1]} for n in range(each)}
        encoder = FeatureEncoder(toy_schema(*features), toy_statistics(words))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def rows(serialized):
            return encode_rows(parse_tasks(serialized, encoder.schema), encoder)

        return len(rows.get_concrete_function().graph.get_operations())

    assert operations(8) == operations(3)


def test_rows_that_a_cap_drops_are_gone_before_anything_is_encoded():
    records = [
        encode_task(SCHEMA, f"t{t}", task_rows(t, n), start)
        for t, (n, start) in enumerate([(5, -1), (5, 3), (1, -1), (2, 0)])
    ]
    tasks = most_recent(parse_tasks(tf.constant(records), SCHEMA), 2)
    assert tasks.splits.numpy().tolist() == [0, 2, 6, 7, 9]
    assert tasks.columns["row_id"].numpy().tolist() == [3, 4, 101, 102, 103, 104, 200, 300, 301]
    assert tasks.query_start.numpy().tolist() == [-1, 2, -1, 0]
