"""Statistics of the training rows for the encoding of numbers over quantiles.

This module does not import TensorFlow, which `limaml prepare` does not load. The encoding itself is
in `tfrec_limaml.tasks.quantiles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrec_limaml.arrays import Floats


def quantile_statistics(sample: Floats, bins: int) -> dict[str, Any]:
    """Statistics of a feature's training rows for `tfrec_limaml.tasks.quantiles`.

    Args:
        sample: Values ``[n, width]`` after the feature's `normalise` transform.
        bins: Maximum number of bins; fewer if many rows share a value.

    Returns:
        For each of the ``width`` elements its bins' ``edges`` (one more than bins; none for a
        constant), and its components' ``component_mean`` and ``component_deviation``.
    """
    result: dict[str, Any] = {"edges": [], "component_mean": [], "component_deviation": []}
    for column in sample.T:
        edges = np.unique(np.quantile(column, np.linspace(0.0, 1.0, bins + 1)))
        if len(edges) < 2:
            edges = edges[:0]
        low, width = edges[:-1], np.diff(edges)
        components = np.clip((column[:, None] - low) / width, 0.0, 1.0)
        result["edges"].append(edges.tolist())
        result["component_mean"].append(components.mean(0).tolist())
        result["component_deviation"].append(components.std(0).tolist())
    return result


def encoded_width(statistics: Mapping[str, Any]) -> int:
    """Width of a feature's encoding: the value and components of every element."""
    return sum(max(len(edges), 1) for edges in statistics["edges"])
