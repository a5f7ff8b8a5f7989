"""Drift of each feature between the training and the evaluation rows, for the data card.

A feature whose meaning changes at evaluation time (a recency that grows because values are
frozen at the split) makes a model look worse, or better, than it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks.grouping import segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import NAMES
from limaml_beam.build_tasks.statistics import add_moments, moments, numbers
from limaml_beam.rows import columnar
from tfrec_limaml.schema.schema import Feature, Schema

BINS = 64  # of hashed values of categorical features
#: Drift above which the data card warns: half a standard deviation, or 30 % of the rows with
#: other values.
LIMITS = {"numeric": 0.5, "categorical": 0.3}
_MIN_ROWS = 200  # a mean of fewer is too uncertain

Parts = dict[tuple[str, int], Any]


class MeasureFeatures(beam.CombineFn):
    """Joined blocks -> by feature and split, moments of numbers or a histogram of hashed values."""

    def __init__(self, schema: Schema, settings: TaskSettings) -> None:
        self.schema, self.settings = schema, settings

    def create_accumulator(self) -> Parts:
        """An empty accumulator."""
        return {}

    def add_input(self, accumulator: Parts, block: pa.Table) -> Parts:
        """Adds a block."""
        segment = segments(block, self.settings)
        masks = {int(split): segment == split for split in np.unique(segment)}
        for feature in self.schema.all_features:
            if feature.categorical:
                histograms = _histograms(block, feature, segment)
                parts = {split: histograms[split] for split in masks}
            else:
                values = numbers(block, feature)
                parts = {s: moments(values[rows], feature.normalise) for s, rows in masks.items()}
            for split, part in parts.items():
                _add(accumulator, (feature.name, split), part)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Parts]) -> Parts:
        """Merges accumulators."""
        total: Parts = {}
        for accumulator in accumulators:
            for name, part in accumulator.items():
                _add(total, name, part)
        return total

    def extract_output(self, accumulator: Parts) -> dict[str, dict[str, Any]]:
        """Drift of every feature, see `drift_of`."""
        return {
            feature.name: drift_of(
                [accumulator.get((feature.name, split)) for split in range(len(NAMES))]
            )
            for feature in self.schema.all_features
        }


def drift_of(parts: list[Any]) -> dict[str, Any]:
    """Drift of one feature from its training rows, by evaluation split.

    Args:
        parts: Moments or a histogram of each split; None without rows.

    Returns:
        ``kind`` and, for each evaluation split with rows, ``drift``. For numbers: the difference of
        the means in standard deviations of the training rows (after the feature's transform; the
        largest component of a vector). For categories: the share of rows that would have to change
        their value. ``uncertain`` is true if chance alone explains the difference.
    """
    train = parts[0]
    kind = "categorical" if isinstance(train, np.ndarray) else "numeric"
    result: dict[str, Any] = {"kind": kind}
    for name, part in zip(NAMES[1:], parts[1:], strict=True):
        if train is None or part is None:
            continue
        measure = _categorical if kind == "categorical" else _numeric
        drift, noise, rows = measure(train, part)
        result[name] = {
            "drift": round(drift, 4),
            "uncertain": bool(drift <= noise or rows < _MIN_ROWS),
        }
    return result


def warnings(drift: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for every feature that drifts beyond `LIMITS`."""
    lines = []
    for feature, feature_drift in drift.items():
        for split in NAMES[1:]:
            difference = feature_drift.get(split)
            if (
                difference is None
                or difference["uncertain"]
                or difference["drift"] <= LIMITS[feature_drift["kind"]]
            ):
                continue
            value = difference["drift"]
            lines.append(
                f"feature {feature} drifts: the mean of its {split} rows is {value:.2f} standard "
                "deviations from that of the training rows"
                if feature_drift["kind"] == "numeric"
                else f"feature {feature} drifts: {value:.0%} of its {split} rows are distributed "
                "differently from the training rows"
            )
    return lines


def _histograms(
    rows: pa.Table, feature: Feature, segment: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many rows of each split ``[3, BINS]`` have a value in each bin of hashes."""
    codes, distinct = columnar.codes_of(rows[feature.name])
    bins = (columnar.stable_hash(distinct) % np.uint64(BINS)).astype(np.int64)
    return np.bincount(segment * BINS + bins[codes], minlength=len(NAMES) * BINS).reshape(-1, BINS)


def _add(total: Parts, name: tuple[str, int], part: Any) -> None:
    if name not in total:
        total[name] = part
    elif isinstance(part, np.ndarray):
        total[name] = total[name] + part
    else:
        total[name] = add_moments(total[name], part)


def _numeric(train: Any, part: Any) -> tuple[float, float, int]:
    """Standardised difference of the means, four standard errors of it, and the rows."""
    variance = np.maximum(train[2] / train[0], 0.0)
    scale = np.sqrt(np.where(variance > 0, variance, np.maximum(part[2] / part[0], 0.0)))
    difference = np.abs(part[1] - train[1])
    drift = np.where(scale > 0, difference / np.where(scale > 0, scale, 1.0), difference > 0)
    return float(drift.max()), 4.0 * math.sqrt(1 / train[0] + 1 / part[0]), int(part[0])


def _categorical(
    train: npt.NDArray[np.int64], part: npt.NDArray[np.int64]
) -> tuple[float, float, int]:
    """Total variation distance, its expected value by chance, and the rows."""
    rows = int(part.sum())
    distance = 0.5 * np.abs(train / train.sum() - part / rows).sum()
    used = int(((train + part) > 0).sum())
    return float(distance), math.sqrt(used * (1 / train.sum() + 1 / rows)), rows
