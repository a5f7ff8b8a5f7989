"""Encodes all numeric features of a batch together.

Each step is one operation for all features: the time of a small request depends on the number of
operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.columns import Columns, Part, parts_of
from tfrec_limaml.tasks.quantile_statistics import encoded_width
from tfrec_limaml.tasks.quantiles import encode_quantiles


class Number(NamedTuple):
    """A numeric feature and its entry in ``statistics.json``, empty if it needs none."""

    feature: Feature
    statistics: Mapping[str, Any]


def encode_numbers(numbers: Sequence[Number], columns: Columns) -> dict[str, list[Part]]:
    """Encodes numeric features.

    Args:
        numbers: The features.
        columns: Raw columns, ``[N]`` or ``[N, width]``.

    Returns:
        For each feature float32 ``[N, W]`` in one or several parts, to be joined.
    """
    by_quantiles, plain_numbers = _groups(numbers)
    encoded: dict[str, list[Part]] = {}
    if by_quantiles:
        values = encode_quantiles(
            _side_by_side(by_quantiles, columns), _joint_statistics(by_quantiles)
        )
        widths = [n.feature.width for n in by_quantiles]
        components = [encoded_width(n.statistics) - n.feature.width for n in by_quantiles]
        parts = parts_of(values, [*widths, *components])  # all values, then all components
        for index, number in enumerate(by_quantiles):
            encoded[number.feature.name] = parts[index :: len(by_quantiles)]
    if plain_numbers:
        scaled = _side_by_side(plain_numbers, columns)
        means, deviations = _scales(plain_numbers)
        if means.any() or (deviations != 1.0).any():
            scaled = (scaled - means) / deviations
        parts = parts_of(scaled, [n.feature.width for n in plain_numbers])
        for number, part in zip(plain_numbers, parts, strict=True):
            encoded[number.feature.name] = [part]
    return encoded


def _groups(numbers: Sequence[Number]) -> list[list[Number]]:
    """Features with quantiles and the others; those with a logarithm first."""
    by_quantiles = [n for n in numbers if n.feature.encoding == "quantiles"]
    plain_numbers = [n for n in numbers if n.feature.encoding != "quantiles"]
    return [
        sorted(group, key=_logarithmic, reverse=True) for group in (by_quantiles, plain_numbers)
    ]


def _logarithmic(number: Number) -> bool:
    return number.feature.normalise == "log"


def _side_by_side(numbers: Sequence[Number], columns: Columns) -> tf.Tensor:
    """The features' values ``[N, sum of widths]``, after their logarithm."""
    parts: list[tf.Tensor] = []
    for logarithmic, group in itertools.groupby(numbers, _logarithmic):
        values = columns.side_by_side([n.feature.name for n in group], tf.float32)
        parts.append(tf.sign(values) * tf.math.log1p(tf.abs(values)) if logarithmic else values)
    return tf.concat(parts, -1) if len(parts) > 1 else parts[0]


def _joint_statistics(numbers: Sequence[Number]) -> dict[str, Any]:
    """The statistics of several features as if they were one."""
    names = ("mean", "variance", "edges", "component_mean", "component_deviation")
    return {
        name: [element for n in numbers for element in _as_list(n.statistics[name])]
        for name in names
    }


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _scales(
    numbers: Sequence[Number],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each element; 0 and 1 for elements that are not normalised."""
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
