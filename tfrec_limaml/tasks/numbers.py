"""All numeric features of a batch of rows at once: one operation for each step instead of one per
feature, which is what a small request's time goes into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.quantiles import encode_quantiles, encoded_width


class Number(NamedTuple):
    """A numeric feature and its entry in ``statistics.json``, empty where it needs none."""

    feature: Feature
    statistics: Mapping[str, Any]


def encode_numbers(numbers: Sequence[Number], columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Encodes numeric features.

    Args:
        numbers: The features.
        columns: Raw columns, ``[N]`` or ``[N, width]``.

    Returns:
        float32 ``[N, W]``; `number_places` says which columns belong to which feature.
    """
    by_quantiles, others = _groups(numbers)
    values = _side_by_side([*by_quantiles, *others], columns)
    width = sum(number.feature.width for number in by_quantiles)
    parts = []
    if by_quantiles:
        parts.append(encode_quantiles(values[:, :width], _merged(by_quantiles)))
    if others:
        plain = values[:, width:]
        means, deviations = _scales(others)
        if means.any() or (deviations != 1.0).any():
            plain = (plain - means) / deviations
        parts.append(plain)
    return tf.concat(parts, -1) if len(parts) > 1 else parts[0]


def number_places(numbers: Sequence[Number]) -> Iterator[tuple[str, list[int]]]:
    """For each feature its name and its columns in what `encode_numbers` returns: with quantiles
    all values before all components.
    """
    by_quantiles, others = _groups(numbers)
    value = 0
    component = sum(number.feature.width for number in by_quantiles)
    for number in by_quantiles:
        width = number.feature.width
        components = encoded_width(number.statistics) - width
        first = list(range(value, value + width))
        yield number.feature.name, first + list(range(component, component + components))
        value, component = value + width, component + components
    for number in others:
        width = number.feature.width
        yield number.feature.name, list(range(component, component + width))
        component += width


def _groups(numbers: Sequence[Number]) -> tuple[list[Number], list[Number]]:
    by_quantiles = [n for n in numbers if n.feature.encoding == "quantiles"]
    return by_quantiles, [n for n in numbers if n.feature.encoding != "quantiles"]


def _side_by_side(numbers: Sequence[Number], columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The features' values ``[N, sum of widths]``, after their logarithm."""
    parts = []
    for number in numbers:
        value = columns[number.feature.name]
        if value.dtype != tf.float32:
            value = tf.cast(value, tf.float32)
        parts.append(tf.reshape(value, [-1, number.feature.width]))
    values = tf.concat(parts, -1) if len(parts) > 1 else parts[0]
    logarithmic = np.concatenate(
        [np.full(n.feature.width, n.feature.normalise == "log") for n in numbers]
    )
    if not logarithmic.any():
        return values
    logarithms = tf.sign(values) * tf.math.log1p(tf.abs(values))
    return logarithms if logarithmic.all() else tf.where(logarithmic, logarithms, values)


def _merged(numbers: Sequence[Number]) -> dict[str, Any]:
    """The statistics of several features as if they were one."""
    names = ("mean", "variance", "edges", "component_mean", "component_deviation")
    return {
        name: [element for n in numbers for element in _listed(n.statistics[name])]
        for name in names
    }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _scales(
    numbers: Sequence[Number],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each element; 0 and 1 where it is taken as it is."""
    means, deviations = [], []
    for number in numbers:
        width = number.feature.width
        if number.feature.normalise == "none":
            means.append(np.zeros(width, np.float32))
            deviations.append(np.ones(width, np.float32))
            continue
        mean = np.asarray(number.statistics["mean"], np.float32)
        deviation = np.sqrt(np.asarray(number.statistics["variance"], np.float32))
        means.append(np.broadcast_to(mean, width))
        deviations.append(np.broadcast_to(np.maximum(deviation, np.float32(1e-6)), width))
    return np.concatenate(means), np.concatenate(deviations)
