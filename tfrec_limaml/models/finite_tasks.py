"""Tells tasks whose values cannot be used, even where their query loss is finite.

On CPUs a ReLU may turn NaN into 0: the loss of a task with NaN is then finite, and its gradients
are not. Under a loss of binary labels the loss of the label 5 is finite, and has no minimum.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import DualKernel, LowRankKernel, SharedWeight
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.outer_step import Samples


def finite_samples(samples: Samples, binary: bool) -> tf.Tensor:
    """Whether the features and weights of each task's real rows can be used, ``[T]``.

    Features must be finite, weights at least 0, and labels between 0 and 1 if they are `binary`.
    """
    values = map(tf.convert_to_tensor, samples["features"].values())
    rows = [tf.math.is_finite(_sum_from(value, 2)) for value in values if value.dtype.is_floating]
    rows.append(tf.math.is_finite(_nan_if_outside(samples, binary)))
    return tf.reduce_all(tf.reduce_all(tf.stack(rows), 0) | (samples["weight"] == 0), -1)


def refuse_bad_samples(part: str, samples: Samples, binary: bool) -> None:
    """Raises an error if a real row has a negative weight, or a label outside 0 to 1 if `binary`.

    In a graph the error is TensorFlow's; see `bad_samples_as_errors`. Labels of NaN are no error.
    """
    label, weight = samples["label"], samples["weight"]
    limits = [("weights must be at least 0", weight, weight < 0, "give padding the weight 0")]
    if binary:
        outside = ((label < 0) | (label > 1)) & (weight != 0)
        text = "labels must be between 0 and 1 under a loss of binary labels"
        remedy = "change them with dataset.map, or compile with a regression loss, such as mse"
        limits.append((text, label, outside, remedy))
    for text, values, bad, remedy in limits:
        message = f"{text}; {remedy}. Received in the {part} set"
        tf.cond(tf.reduce_any(bad), lambda v=values, b=bad, m=message: _refuse(m, v, b), _accept)


def _refuse(message: str, values: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    value = tf.boolean_mask(values, bad)[0]
    if tf.executing_eagerly():
        raise LimamlError(f"{message}: {value.numpy()}")
    with tf.control_dependencies([tf.debugging.Assert(False, [message, value])]):
        return tf.constant(False)


def _accept() -> tf.Tensor:
    return tf.constant(True)


@contextlib.contextmanager
def bad_samples_as_errors() -> Iterator[None]:
    """Turns TensorFlow's error of `refuse_bad_samples` into a `LimamlError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\[((?:labels|weights) must be [^]]*)\] \[([^]]*)\]", str(error))
        if found is None:
            raise
        raise LimamlError(f"{found[1]}: {found[2]}") from None


def finite_adaptation(adapted: AdaptedTasks, weights: bool) -> tf.Tensor:
    """Whether each task's support losses are finite: ``[T]``, or a scalar.

    So must be the adapted weights, if `weights` says that their first axis is that of the tasks.
    """
    values = list(adapted.losses)
    for weight in adapted.weights if weights else ():
        values += _of_tasks(weight)
    finite = [tf.math.is_finite(_sum_from(value, 1)) for value in values]
    return tf.reduce_all(tf.stack(finite), 0) if finite else tf.constant(True)


def _nan_if_outside(samples: Samples, binary: bool) -> tf.Tensor:
    """NaN for rows with a negative weight, or a label outside 0 to 1 if `binary`: ``[T, S]``."""
    label, weight = samples["label"], samples["weight"]
    return tf.sqrt(weight) + tf.sqrt(label * (1.0 - label)) if binary else tf.sqrt(weight)


def _of_tasks(weight: Any) -> list[tf.Tensor]:
    """The tensors ``[T, ...]`` of an adapted weight in any form."""
    if isinstance(weight, SharedWeight):
        return []
    return weight.steps if isinstance(weight, DualKernel | LowRankKernel) else [weight]


def _sum_from(value: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums over this axis and all later ones, in at least single precision."""
    value = tf.cast(value, tf.float32) if value.dtype.size < 4 else value
    return tf.reduce_sum(value, list(range(axis, value.shape.rank)))
