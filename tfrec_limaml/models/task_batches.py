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
    """Checks names and shapes of a batch of tasks, or of its specification.

    Raises `LimamlError` naming what is missing or has another shape.
    """
    for part in _PARTS:
        samples = batch.get(part, {})
        missing = [part] if part not in batch else []
        missing += [f"{part}/{name}" for name in _SAMPLES if part in batch and name not in samples]
        if missing:
            raise LimamlError(
                f"the batch of tasks has no {missing[0]!r}; it needs 'support' and 'query' with "
                "'features', 'label' and 'weight' each (weight 1 for real rows, 0 for padding)"
            )
        _check_shapes(part, samples)
    names = [set(batch[part]["features"]) for part in _PARTS]
    if names[0] != names[1]:
        raise LimamlError(
            f"support and query must have the same features, only one has "
            f"{sorted(names[0] ^ names[1])}"
        )


def _check_shapes(part: str, samples: Mapping[str, Any]) -> None:
    """Raises `LimamlError` unless all values start with the axes tasks and rows."""
    rows = tf.TensorShape([None, None])
    for name in ("label", "weight"):
        shape = tf.TensorShape(samples[name].shape)
        if not shape.is_compatible_with(rows):
            raise LimamlError(
                f"{part}/{name} must have the shape [tasks, rows] of {part}/label, received {shape}"
            )
        rows = rows.merge_with(shape)
    for name, value in samples["features"].items():
        shape = tf.TensorShape(value.shape)
        if shape.rank is not None and not (shape.rank > 1 and shape[:2].is_compatible_with(rows)):
            raise LimamlError(
                f"feature {name!r} of the {part} set must have the shape [tasks, rows, ...], with "
                f"the tasks and rows of the label {rows}, received {shape}; repeat what is the "
                "same for all rows of a task"
            )
