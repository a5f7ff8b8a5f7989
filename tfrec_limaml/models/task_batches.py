"""Checks of batches of tasks, which a user's own input pipeline may have built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfrec_limaml.errors import LimamlError

_PARTS = ("support", "query")
_SAMPLES = ("features", "label", "weight")


def is_task_batch(data: Any) -> bool:
    """Whether this is a batch of tasks, not of encoded rows."""
    return isinstance(data, Mapping) and "support" in data


def check_task_batch(batch: Mapping[str, Any]) -> None:
    """Checks names, types and shapes of a batch of tasks, or of its specification.

    Raises `LimamlError` naming what is missing or does not fit.
    """
    for part in _PARTS:
        samples = batch.get(part, {})
        _check_is_mapping(part, samples)
        missing = [part] if part not in batch else []
        missing += [f"{part}/{name}" for name in _SAMPLES if part in batch and name not in samples]
        if missing:
            raise LimamlError(
                f"the batch of tasks has no {missing[0]!r}; it needs 'support' and 'query' with "
                "'features', 'label' and 'weight' each (weight 1 for real rows, 0 for padding)"
            )
        _check_is_mapping(f"{part}/features", samples["features"])
        _check_shapes(part, samples)
    names = [set(batch[part]["features"]) for part in _PARTS]
    if names[0] != names[1]:
        raise LimamlError(
            f"support and query must have the same features, only one has "
            f"{sorted(names[0] ^ names[1])}"
        )
    tasks = [tf.TensorShape(batch[part]["label"].shape)[:1] for part in _PARTS]
    if not tasks[0].is_compatible_with(tasks[1]):
        raise LimamlError(
            "support and query must have the same tasks in the same order, received "
            f"{tasks[0][0]} and {tasks[1][0]} tasks; give a task without rows rows of weight 0"
        )


def _check_is_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise LimamlError(
            f"{name!r} of a batch of tasks must be a dictionary of tensors by name, received "
            f"{type(value).__name__}"
        )


def _check_shapes(part: str, samples: Mapping[str, Any]) -> None:
    """Raises `LimamlError` unless all values start with the axes tasks and rows.

    Labels and weights must be numbers.
    """
    rows = tf.TensorShape([None, None])
    for name in ("label", "weight"):
        shape, of_label = tf.TensorShape(samples[name].shape), ""
        if name == "weight":
            of_label = f" of {part}/label, {rows}"
        if not shape.is_compatible_with(rows):
            raise LimamlError(
                f"{part}/{name} must have the shape [tasks, rows]{of_label}, received {shape}"
            )
        rows = rows.merge_with(shape)
        dtype = tf.as_dtype(samples[name].dtype)
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise LimamlError(
                f"{part}/{name} must hold numbers, received {dtype.name}; convert it, for example "
                "with tf.strings.to_number in dataset.map"
            )
    for name, value in samples["features"].items():
        shape = tf.TensorShape(value.shape)
        if shape.rank is not None and not (shape.rank > 1 and shape[:2].is_compatible_with(rows)):
            raise LimamlError(
                f"feature {name!r} of the {part} set must have the shape [tasks, rows, ...], with "
                f"the tasks and rows of the label {rows}, received {shape}; repeat what is the "
                "same for all rows of a task"
            )
