"""Piecewise-linear encoding of numbers over the quantiles of the training rows.

A number ``x`` becomes its standardised value, clipped to +-5, and one component per bin: 0 below
the bin, 1 above it, linear within. Components are centred and scaled so that all components of a
feature together have unit variance, for any number of them: gradient steps and weight decay depend
on the norm of the input. Source: Gorishniy et al., "On Embeddings for Numerical Features in Tabular
Deep Learning", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

#: Largest standardised value, and smallest standard deviation of a component.
CLIP, MIN_DEVIATION = 5.0, 0.05


def encode_quantiles(value: tf.Tensor, statistics: Mapping[str, Any]) -> tf.Tensor:
    """Encodes a feature.

    Args:
        value: float32 ``[N, width]`` after the feature's `normalise` transform.
        statistics: The feature's entry in ``statistics.json``: ``mean``, ``variance`` and what
            `tfrec_limaml.tasks.quantile_statistics` returns.

    Returns:
        float32 ``[N, encoded_width]``: all standardised values, then all components.
    """
    deviation = np.maximum(np.sqrt(np.asarray(statistics["variance"])), 1e-6)
    scaled = (value - np.float32(statistics["mean"])) / np.float32(deviation)
    parts = [tf.clip_by_value(scaled, -CLIP, CLIP)]
    edges = [np.asarray(e) for e in statistics["edges"]]
    bins = [max(len(e) - 1, 0) for e in edges]
    if any(bins):
        source = np.repeat(np.arange(len(edges)), bins)
        low = np.concatenate([e[:-1] for e in edges])
        width = np.concatenate([np.diff(e) for e in edges])
        mean = np.concatenate([np.asarray(m) for m in statistics["component_mean"]])
        spread = np.concatenate([np.asarray(d) for d in statistics["component_deviation"]])
        scale = np.maximum(spread, MIN_DEVIATION) * np.sqrt(np.repeat(bins, bins))
        position = (tf.gather(value, source, axis=1) - np.float32(low)) / np.float32(width)
        parts.append((tf.clip_by_value(position, 0.0, 1.0) - np.float32(mean)) / np.float32(scale))
    return tf.concat(parts, -1)
