"""Describes the query rows of a batch of tasks, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def describe_query(data: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Arrays ``[N]`` that describe the real query rows, in order.

    They are all entries of the query other than features, and ``history``, the number of samples in
    the task's support set. If the batch has them, also ``last_seen``, the task's latest support
    timestamp (0 without any), and ``task_key``.
    """
    support, query = data["support"], data["query"]
    mask = query["weight"] > 0
    rows = {
        name: tf.boolean_mask(value, mask)
        for name, value in query.items()
        if name not in ("features", "weight")
    }
    per_task = {"history": tf.math.count_nonzero(support["weight"], -1)}
    if "timestamp" in support:
        per_task["last_seen"] = tf.reduce_max(
            tf.where(support["weight"] > 0, support["timestamp"], 0), -1
        )
    if "task_key" in data:
        per_task["task_key"] = data["task_key"]
    for name, value in per_task.items():
        rows[name] = tf.boolean_mask(tf.broadcast_to(value[:, None], tf.shape(mask)), mask)
    return rows
