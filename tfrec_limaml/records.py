"""The task record: one `tf.train.SequenceExample` per task, the toolkit's wire format.

Context (task level):
    ``task_key``       bytes, `tfrec_limaml.schema.encode_task_key` of the key columns
    ``sample_count``   int64, number of interactions in the record
    ``query_start``    int64, interactions before this index are support, the others query; ``-1`` where the record is not
                       cut yet (training records are cut by the input pipeline, embedding records are all support)
Feature lists (one step per interaction, in time order):
    every feature of the schema under its own name, raw; ``label`` float; ``timestamp`` int64 milliseconds; and,
    where the schema names a weight column, ``weight`` float; and the schema's ``carry`` columns, float.

Files of one task definition lie together::

    <tasks>/<definition>/train-00000-of-00004.tfrecord.gz    rows before validation_start, query_start = -1
    <tasks>/<definition>/validation-...                      support: train rows, query: validation rows
    <tasks>/<definition>/test-...                            support: train + validation rows, query: test rows
    <tasks>/<definition>/recent-...                          all rows before test_start, query_start = -1: what embeddings are made of
    <tasks>/schema.yaml  <tasks>/statistics.json  <tasks>/data_card.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec_limaml.schema import Schema

TASK_KEY = "task_key"
SAMPLE_COUNT = "sample_count"
QUERY_START = "query_start"
LABEL = "label"
TIMESTAMP = "timestamp"
WEIGHT = "weight"

SPLITS = ("train", "validation", "test", "recent")
SCHEMA_FILE = "schema.yaml"
STATISTICS_FILE = "statistics.json"
DATA_CARD_FILE = "data_card.json"


def encode_task(schema: Schema, task_key: str, rows: Sequence[Mapping[str, Any]], query_start: int = -1) -> bytes:
    """Serialises one task.

    Args:
        schema: Names and types of the columns.
        task_key: The task's identifier.
        rows: Interactions in time order; each maps feature names to raw values and holds ``label``, ``timestamp``
            (milliseconds), the carried columns and, if the schema has one, ``weight``.
        query_start: Index of the first query row, or ``-1``.

    Returns:
        A serialized `tf.train.SequenceExample`.
    """
    from tensorflow.core.example import example_pb2  # the protos alone: no TensorFlow runtime needed here

    record = example_pb2.SequenceExample()
    context = record.context.feature
    context[TASK_KEY].bytes_list.value.append(task_key.encode())
    context[SAMPLE_COUNT].int64_list.value.append(len(rows))
    context[QUERY_START].int64_list.value.append(query_start)
    lists = record.feature_lists.feature_list
    for feature in schema.all_features:
        steps = lists[feature.name].feature
        for row in rows:
            value = row[feature.name]
            if feature.dtype == "string":
                steps.add().bytes_list.value.append(value if isinstance(value, bytes) else str(value).encode())
            elif feature.dtype == "int64":
                steps.add().int64_list.value.append(int(value))
            elif feature.width == 1:
                steps.add().float_list.value.append(float(value))
            else:
                steps.add().float_list.value.extend(value)
    for name in (LABEL, *((WEIGHT,) if schema.weight is not None else ()), *schema.carry):
        steps = lists[name].feature
        for row in rows:
            steps.add().float_list.value.append(float(row[name]))
    steps = lists[TIMESTAMP].feature
    for row in rows:
        steps.add().int64_list.value.append(int(row[TIMESTAMP]))
    return record.SerializeToString(deterministic=True)
