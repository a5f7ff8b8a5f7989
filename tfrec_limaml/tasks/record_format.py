"""The task record: one `tf.train.SequenceExample` per task, the toolkit's wire format.

Context (task level):

- ``task_key``: bytes, the `tfrec_limaml.schema.task_keys.task_key` of the key columns;
- ``sample_count``: int64, number of interactions in the record;
- ``query_start``: int64; interactions before this index are support, the others query. ``-1`` if
the record is not split: the input pipeline splits training records, and in records for embeddings
all rows are support rows.

Feature lists, one step per interaction, in time order: the raw value of each feature of the schema
under the feature's name; ``label`` float; ``timestamp`` int64 milliseconds; ``weight`` float if the
schema names a weight column; and the schema's ``carry`` (passthrough) columns, float. For
several task definitions, none of which refines another, also each row's keys under the other ones,
bytes, named by `key_list`.

The records of each split:

- ``train``: rows before validation_start; ``query_start`` is -1;
- ``validation``: support: train rows, query: validation rows;
- ``test``: support: train and validation rows, query: test rows;
- ``recent``: all rows before test_start, ``query_start`` is -1; embeddings are computed from these;
- ``episode-<number>``: the train rows once more, split at a random time; history features of query
rows are frozen at that time.

`tfrec_limaml.tasks.folder` describes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfrec_limaml.schema.schema import Feature, Schema

TASK_KEY = "task_key"
SAMPLE_COUNT = "sample_count"
QUERY_START = "query_start"
LABEL = "label"
TIMESTAMP = "timestamp"
WEIGHT = "weight"


def key_list(definition: str) -> str:
    """Name of the feature list that holds each row's task key under another definition."""
    return f"{TASK_KEY}:{definition}"


def encode_task(
    schema: Schema,
    task_key: str,
    rows: Sequence[Mapping[str, Any]],
    query_start: int = -1,
    other_definitions: Sequence[str] = (),
) -> bytes:
    """Serialises one task.

    Args:
        schema: Names and types of the columns.
        task_key: The task's identifier.
        rows: Interactions in time order; each maps feature names to raw values and holds ``label``,
            ``timestamp`` (milliseconds), the passthrough columns and, if the schema has one,
            ``weight``.
        query_start: Index of the first query row, or ``-1``.
        other_definitions: Definitions whose keys the rows hold too, under the names `key_list`.

    Returns:
        A serialized `tf.train.SequenceExample`.
    """
    from tensorflow.core.example import (
        example_pb2,
    )  # only the protos: the TensorFlow runtime is not needed here

    record = example_pb2.SequenceExample()
    context = record.context.feature
    context[TASK_KEY].bytes_list.value.append(task_key.encode())
    context[SAMPLE_COUNT].int64_list.value.append(len(rows))
    context[QUERY_START].int64_list.value.append(query_start)
    lists = record.feature_lists.feature_list
    for feature in schema.all_features:
        steps = lists[feature.name].feature
        for row in rows:
            _add_value(steps.add(), feature, row[feature.name])
    for name in (LABEL, *((WEIGHT,) if schema.weight is not None else ()), *schema.carry):
        steps = lists[name].feature
        for row in rows:
            steps.add().float_list.value.append(float(row[name]))
    for name in map(key_list, other_definitions):
        steps = lists[name].feature
        for row in rows:
            steps.add().bytes_list.value.append(row[name].encode())
    steps = lists[TIMESTAMP].feature
    for row in rows:
        steps.add().int64_list.value.append(int(row[TIMESTAMP]))
    return record.SerializeToString(deterministic=True)


def _add_value(step: Any, feature: Feature, value: Any) -> None:
    """Writes a row's value into its `tf.train.Feature`."""
    if feature.dtype == "string":
        text = value if isinstance(value, bytes) else str(value).encode()
        step.bytes_list.value.append(text)
    elif feature.dtype == "int64":
        step.int64_list.value.extend([int(value)] if feature.width == 1 else value)
    else:
        step.float_list.value.extend([float(value)] if feature.width == 1 else value)
