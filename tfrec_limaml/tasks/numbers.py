"""All numeric features of a batch of rows at once: one operation for each step instead of one per
feature, which is what a small request's time goes into.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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


def encode_numbers(
    numbers: Sequence[Number], columns: Mapping[str, tf.Tensor]
) -> dict[str, list[tf.Tensor]]:
    """Encodes numeric features.

    Args:
        numbers: The features.
        columns: Raw columns, ``[N]`` or ``[N, width]``.

    Returns:
        For each feature float32 ``[N, W]`` in one or several parts, to be concatenated.
    """
    if not numbers:
        return {}
    by_quantiles, others = _groups(numbers)
    values = _side_by_side([*by_quantiles, *others], columns)
    width = sum(number.feature.width for number in by_quantiles)
    encoded: dict[str, list[tf.Tensor]] = {}
    if by_quantiles:
        made = encode_quantiles(values[:, :width], _merged(by_quantiles))
        widths = [n.feature.width for n in by_quantiles]
        components = [encoded_width(n.statistics) - n.feature.width for n in by_quantiles]
        parts = tf.split(made, [*widths, *components], axis=-1)  # all values, then all components
        for place, number in enumerate(by_quantiles):
            encoded[number.feature.name] = parts[place :: len(by_quantiles)]
    if others:
        plain = values[:, width:]
        means, deviations = _scales(others)
        if means.any() or (deviations != 1.0).any():
            plain = (plain - means) / deviations
        for number, part in zip(
            others, tf.split(plain, [n.feature.width for n in others], axis=-1), strict=True
        ):
            encoded[number.feature.name] = [part]
    return encoded


def _groups(numbers: Sequence[Number]) -> tuple[list[Number], list[Number]]:
    """Features with quantiles and the others; those with a logarithm last and first, so that they
    lie side by side.
    """
    by_quantiles = [n for n in numbers if n.feature.encoding == "quantiles"]
    others = [n for n in numbers if n.feature.encoding != "quantiles"]
    return sorted(by_quantiles, key=_logarithmic), sorted(others, key=_logarithmic, reverse=True)


def _logarithmic(number: Number) -> bool:
    return number.feature.normalise == "log"


def _side_by_side(numbers: Sequence[Number], columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The features' values ``[N, sum of widths]``, after their logarithm."""
    parts: list[tf.Tensor] = []
    for logarithmic, group in itertools.groupby(numbers, _logarithmic):
        values = []
        for number in group:
            value = columns[number.feature.name]
            if value.dtype != tf.float32:
                value = tf.cast(value, tf.float32)
            values.append(tf.reshape(value, [-1, number.feature.width]))
        if logarithmic:
            joined = tf.concat(values, -1) if len(values) > 1 else values[0]
            values = [tf.sign(joined) * tf.math.log1p(tf.abs(joined))]
        parts += values
    return tf.concat(parts, -1) if len(parts) > 1 else parts[0]


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
