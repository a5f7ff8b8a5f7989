"""Drift of each feature between the training and the evaluation rows, for the data card.

A feature whose meaning changes at evaluation time (a recency that grows because values are
frozen at the split) makes a model look worse, or better, than it is. A feature that only follows
the calendar does not drift: evaluation rows are also compared with the training rows of their
weekdays, because a period of two days has other weekdays than one of four weeks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks.grouping import segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.statistics import add_moments, moments, numbers
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TIME
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.folder import PARTS

BINS = 64  # of hashed values of categorical features
#: Drift above which the data card warns: half a standard deviation, or 30 % of the rows with
#: other values.
LIMITS = {"numeric": 0.5, "categorical": 0.3}
_MIN_ROWS = 200  # a mean of fewer is too uncertain

#: By feature, split and weekday (UTC): moments of numbers or a histogram of hashed values.
Parts = dict[tuple[str, int, int], Any]
_WEEKDAYS = 7


class MeasureFeatures(beam.CombineFn):
    """Joined blocks -> drift of every feature, see `drift_of`."""

    def __init__(self, schema: Schema, settings: TaskSettings) -> None:
        self.schema, self.settings = schema, settings

    def create_accumulator(self) -> Parts:
        """An empty accumulator."""
        return {}

    def add_input(self, accumulator: Parts, block: pa.Table) -> Parts:
        """Adds a block."""
        weekday = columnar.to_numpy(block[TIME]) // DAY_MS % _WEEKDAYS
        group = segments(block, self.settings) * _WEEKDAYS + weekday
        masks = {int(number): group == number for number in np.unique(group)}
        for feature in self.schema.all_features:
            if feature.categorical:
                histograms = _histograms(block, feature, group)
                parts = {number: histograms[number] for number in masks}
            else:
                values = numbers(block, feature)
                parts = {n: moments(values[rows], feature.normalise) for n, rows in masks.items()}
            for number, part in parts.items():
                _add(accumulator, (feature.name, *divmod(number, _WEEKDAYS)), part)
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
        splits: dict[str, list[dict[int, Any]]] = {
            feature.name: [{} for _ in PARTS] for feature in self.schema.all_features
        }
        for (name, split, weekday), part in accumulator.items():
            splits[name][split][weekday] = part
        return {name: drift_of(parts) for name, parts in splits.items()}


def drift_of(parts: Sequence[Mapping[int, Any]]) -> dict[str, Any]:
    """Drift of one feature from its training rows, by evaluation split.

    Args:
        parts: Moments or histograms of each split, by weekday.

    Returns:
        ``kind`` and, for each evaluation split with rows, ``drift``. For numbers: the difference of
        the means in standard deviations of the training rows (after the feature's transform; the
        largest component of a vector). For categories: the share of rows that would have to change
        their value. The training rows are all of them, or those of the same weekdays if that drift
        is smaller. ``uncertain`` is true if chance alone would explain it as a difference from all
        training rows.
    """
    train = parts[0]
    is_histogram = any(isinstance(part, np.ndarray) for part in train.values())
    kind = "categorical" if is_histogram else "numeric"
    result: dict[str, Any] = {"kind": kind}
    for name, part in zip(PARTS[1:], parts[1:], strict=True):
        if not train or not part:
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
        for split in PARTS[1:]:
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
    rows: pa.Table, feature: Feature, group: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many rows of each split and weekday ``[3 * 7, BINS]`` have a value in each bin."""
    codes, distinct = columnar.codes_of(rows[feature.name])
    bins = (columnar.stable_hash(distinct) % np.uint64(BINS)).astype(np.int64)
    cells = len(PARTS) * _WEEKDAYS * BINS
    return np.bincount(group * BINS + bins[codes], minlength=cells).reshape(-1, BINS)


def _add(total: Parts, name: tuple[str, int, int], part: Any) -> None:
    if name not in total:
        total[name] = part
    elif isinstance(part, np.ndarray):
        total[name] = total[name] + part
    else:
        total[name] = add_moments(total[name], part)


def _on_weekdays_of(
    part: Mapping[int, Any], means: Mapping[int, Any], train: Mapping[int, Any]
) -> Any:
    """The mean of training rows that lie on the weekdays of other rows, in the same proportion.

    Rows of a weekday that the training rows lack are compared with all training rows.

    Args:
        part: The other rows.
        means: Means of the training rows, by weekday.
        train: The training rows.
    """
    before, after = _rows(train), _rows(part)
    total, others = sum(before.values()), sum(after.values())
    lacking = sum(rows for day, rows in after.items() if day not in before)
    return sum(
        (after.get(day, 0) + lacking * rows / total) / others * means[day]
        for day, rows in before.items()
    )


def _rows(parts: Mapping[int, Any]) -> dict[int, int]:
    """Number of rows by weekday."""
    return {
        day: int(part.sum() if isinstance(part, np.ndarray) else part[0])
        for day, part in parts.items()
    }


def _numeric(train: Mapping[int, Any], part: Mapping[int, Any]) -> tuple[float, float, int]:
    """Standardised difference of the means, four standard errors of it, and the rows."""
    before, after = (functools.reduce(add_moments, days.values()) for days in (train, part))
    variance = np.maximum(before[2] / before[0], 0.0)
    scale = np.sqrt(np.where(variance > 0, variance, np.maximum(after[2] / after[0], 0.0)))

    def drift_from(mean: Any) -> float:
        gap = np.abs(after[1] - mean)
        return float(np.where(scale > 0, gap / np.where(scale > 0, scale, 1.0), gap > 0).max())

    same_days = _on_weekdays_of(part, {day: each[1] for day, each in train.items()}, train)
    drift = min(drift_from(before[1]), drift_from(same_days))
    return drift, 4.0 * math.sqrt(1 / before[0] + 1 / after[0]), int(after[0])


def _categorical(train: Mapping[int, Any], part: Mapping[int, Any]) -> tuple[float, float, int]:
    """Total variation distance, its expected value by chance, and the rows."""
    before, after = sum(train.values()), sum(part.values())
    rows = int(after.sum())

    def drift_from(shares: Any) -> float:
        return 0.5 * float(np.abs(shares - after / rows).sum())

    same_days = _on_weekdays_of(part, {day: h / h.sum() for day, h in train.items()}, train)
    drift = min(drift_from(before / before.sum()), drift_from(same_days))
    used = int(((before + after) > 0).sum())
    return drift, math.sqrt(used * (1 / before.sum() + 1 / rows)), rows
