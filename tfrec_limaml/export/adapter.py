"""The adapter: serialized task records to meta embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrec_limaml import manifest as names
from tfrec_limaml.export.signatures import Exported, trace_functions
from tfrec_limaml.features import Features
from tfrec_limaml.models import LiMAML
from tfrec_limaml.models.task_embeddings import SubtaskEmbeddings, TaskEmbeddings
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.parsing import PaddedRows, Tasks, encode_rows, parse_tasks, rows_of


def adapter_module(model: LiMAML) -> Exported:
    """The adapter: a signature maps task records to embeddings after ``fine_tune_steps`` steps.

    If tasks have a posterior variance, a second signature also returns it.
    """

    def adapt(task_records: tf.Tensor, with_variance: bool = False) -> dict[str, tf.Tensor]:
        tasks = parse_tasks(task_records, model.encoder.schema)
        index, support = support_rows(tasks, encode_rows(tasks, model.encoder))
        stored = model.task_embeddings(support)
        outputs = stored_outputs(tasks, stored)
        if with_variance:
            outputs[names.VARIANCE] = tf.cast(stored.variance, tf.float32)
        if stored.nested:
            key_parts = [
                tf.gather(model.encoder.further_key(name, tasks.columns), index)
                for name in model.meta_block.nested_definitions
            ]
            times = tf.gather(tasks.columns[record_format.TIMESTAMP], index)
            outputs.update(_nested_outputs(stored.nested, key_parts, tasks.task_key, times))
        return outputs

    inputs = {names.ADAPTER_INPUT: tf.TensorSpec([None], tf.string)}
    signatures: dict[str, Any] = {names.SERVING_SIGNATURE: (adapt, inputs)}
    if model.prior_variance() is not None:
        adapt_with_variance = functools.partial(adapt, with_variance=True)
        signatures[names.VARIANCE_SIGNATURE] = (adapt_with_variance, inputs)
    return trace_functions(model, signatures)


def support_rows(tasks: Tasks, features: Features) -> tuple[tf.Tensor, dict[str, Any]]:
    """The support sets of records, and the index ``[T, S]`` of each of their rows among all rows.

    Args:
        tasks: The parsed records.
        features: Encoded features of all rows ``[R, ...]``.
    """
    rows = PaddedRows.from_counts(tasks.first, _support_counts(tasks), tasks.first)
    return rows.index, {
        "features": {name: rows_of(value, rows.index) for name, value in features.items()},
        "label": rows_of(tasks.columns[record_format.LABEL], rows.index),
        "weight": rows.weights(tasks.columns[record_format.WEIGHT]),
        "age": rows.ages(tasks.columns[record_format.TIMESTAMP]),
    }


def stored_outputs(tasks: Tasks, stored: TaskEmbeddings) -> dict[str, tf.Tensor]:
    """`manifest.ADAPTER_OUTPUTS` of records."""
    counts = _support_counts(tasks)
    rows = PaddedRows.from_counts(tasks.first, counts, tasks.first)
    times = rows_of(tasks.columns[record_format.TIMESTAMP], rows.index)
    outputs = {
        names.TASK_KEY: tasks.task_key,
        names.SAMPLE_COUNT: counts,
        names.LAST_TIMESTAMP: tf.where(counts > 0, tf.reduce_max(times, -1), 0),
        names.LOSS_BEFORE: tf.cast(stored.loss_before, tf.float32),
        names.LOSS_AFTER: tf.cast(stored.loss_after, tf.float32),
    }
    return {
        names.META_EMBEDDING: tf.cast(stored.embedding, tf.float32),
        **{name: value[:, None] for name, value in outputs.items()},
    }


def _support_counts(tasks: Tasks) -> tf.Tensor:
    return tf.where(tasks.query_start >= 0, tasks.query_start, tasks.counts)


def _nested_outputs(
    nested: Sequence[SubtaskEmbeddings],
    key_parts: Sequence[tf.Tensor],
    task_key: tf.Tensor,
    times: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """`manifest.NESTED_OUTPUTS`: the subtasks of each task ``[T]``, definition after definition.

    Args:
        nested: The subtasks and their embeddings, by definition.
        key_parts: The further part of each row's subtask key ``[T, S]``, by definition.
        task_key: Key of each task ``[T]``.
        times: Timestamp of each row ``[T, S]``, milliseconds.
    """
    parts: dict[str, list[tf.Tensor]] = {name: [] for name in names.NESTED_OUTPUTS}
    for position, ((subtasks, embedding), texts) in enumerate(zip(nested, key_parts, strict=True)):
        members = subtasks.members()
        key_part = tf.gather_nd(texts, tf.stack([subtasks.owner, subtasks.first_row], -1))
        values = {
            names.NESTED_DEFINITION: tf.fill(
                tf.shape(subtasks.owner), tf.constant(position, tf.int64)
            ),
            names.NESTED_TASK_KEY: tf.strings.join(
                [tf.gather(task_key, subtasks.owner), key_part], "|"
            ),
            names.NESTED_META_EMBEDDING: tf.cast(embedding, tf.float32),
            names.NESTED_SAMPLE_COUNT: tf.math.count_nonzero(members, -1),
            names.NESTED_LAST_TIMESTAMP: tf.reduce_max(
                tf.where(members, tf.gather(times, subtasks.owner), 0), -1
            ),
        }
        for name, value in values.items():
            by_task = tf.RaggedTensor.from_value_rowids(
                value[: subtasks.count], subtasks.owner[: subtasks.count], tf.shape(task_key)[0]
            )
            parts[name].append(by_task.to_tensor(-1 if name == names.NESTED_DEFINITION else None))
    return {name: tf.concat(values, 1) for name, values in parts.items()}
