"""Statistics of the training rows for preprocessing: moments of numbers, counts of tokens."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.build_tasks.grouping import TRAIN, segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import LABEL, ORDER, TIME
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.quantile_statistics import quantile_statistics
from tfrec_limaml.tasks.statistics import Statistics

#: Rows that quantiles are computed from.
SAMPLE_ROWS = 100_000

#: count, mean ``[width]``, sum of squared deviations ``[width]``
Moments = tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]


def moments(values: npt.NDArray[Any], normalise: str) -> Moments:
    """Moments of ``[n, width]`` values after the feature's transform."""
    rows = transformed(values.astype(np.float64).reshape(len(values), -1), normalise)
    mean = rows.mean(axis=0)
    return len(rows), mean, ((rows - mean) ** 2).sum(axis=0)


def add_moments(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two samples.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979.
    """
    count = a[0] + b[0]
    delta = b[1] - a[1]
    return count, a[1] + delta * (b[0] / count), a[2] + b[2] + delta**2 * (a[0] * b[0] / count)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A uniform sample of rows for quantiles: those with the smallest content hashes.

    It does not depend on how Beam divides the rows into bundles.

    Attributes:
        order: The rows' hashes ``[n]``, ascending.
        values: Feature name to transformed values ``[n, width]``.
    """

    order: npt.NDArray[np.int64]
    values: dict[str, npt.NDArray[np.float64]]

    def merge(self, other: Sample) -> Sample:
        """The sample of the rows of both samples."""
        order = np.concatenate([self.order, other.order])
        smallest = np.argsort(order, kind="stable")[:SAMPLE_ROWS]
        values = {
            name: np.concatenate([value, other.values[name]])[smallest]
            for name, value in self.values.items()
        }
        return Sample(order[smallest], values)


def sample_rows(rows: pa.Table, features: Sequence[Feature]) -> Sample:
    """The sample of a block's rows."""
    order = columnar.to_numpy(rows[ORDER])
    smallest = np.argsort(order, kind="stable")[:SAMPLE_ROWS]
    values = {f.name: transformed(numbers(rows, f)[smallest], f.normalise) for f in features}
    return Sample(order[smallest], values)


def numbers(rows: pa.Table, feature: Feature) -> npt.NDArray[np.float64]:
    """A numeric feature's values ``[n, width]``."""
    column = rows[feature.name]
    flat = column.combine_chunks().flatten() if feature.width > 1 else column
    return columnar.to_numpy(flat).astype(np.float64).reshape(-1, feature.width)


def transformed(values: npt.NDArray[np.float64], normalise: str) -> npt.NDArray[np.float64]:
    """Values after a feature's `normalise` transform, without the scaling."""
    return np.sign(values) * np.log1p(np.abs(values)) if normalise == "log" else values


def token_counts(column: pa.ChunkedArray, feature: Feature) -> Counter[Any]:
    """How often each token occurs; a multi-valued feature counts all values but empty ones."""
    value_counts = pc.value_counts(column.combine_chunks())
    pairs = zip(
        value_counts.field("values").to_pylist(),
        value_counts.field("counts").to_pylist(),
        strict=True,
    )
    if feature.separator is None:
        return Counter(dict(pairs))
    tokens: Counter[Any] = Counter()
    for text, count in pairs:
        for token in text.split(feature.separator):
            if token:
                tokens[token] += count
    return tokens


class StatisticsFn(beam.CombineFn):
    """Combines blocks into `Statistics`.

    Memory grows with the number of distinct tokens of vocabulary features.
    """

    def __init__(self, schema: Schema, settings: TaskSettings) -> None:
        self.schema, self.settings = schema, settings

    def create_accumulator(self) -> dict[str, Any]:
        """An empty accumulator."""
        return {}

    def add_input(self, accumulator: dict[str, Any], block: pa.Table) -> dict[str, Any]:
        """Adds the training rows of a block."""
        times = columnar.to_numpy(block[TIME])
        train = segments(block, self.settings) == TRAIN
        if not train.any():
            return accumulator
        rows = block.filter(pa.array(train))
        part: dict[str, Any] = {
            "": moments(columnar.to_numpy(rows[LABEL]), "none"),
            "window": (int(times[train].min()), int(times[train].max())),
        }
        for feature in self.schema.all_features:
            column = rows[feature.name]
            if feature.encoding == "vocabulary":
                part["feature:" + feature.name] = token_counts(column, feature)
            elif not feature.categorical:
                values = numbers(rows, feature)
                part["feature:" + feature.name] = moments(values, feature.normalise)
        if quantiles := self._quantile_features():
            part["sample"] = sample_rows(rows, quantiles)
        return _add(accumulator, part)

    def _quantile_features(self) -> list[Feature]:
        return [f for f in self.schema.all_features if f.encoding == "quantiles"]

    def merge_accumulators(self, accumulators: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Merges accumulators."""
        total: dict[str, Any] = {}
        for accumulator in accumulators:
            total = _add(total, accumulator)
        return total

    def extract_output(self, accumulator: dict[str, Any]) -> Statistics:
        """The contents of statistics.json."""
        if not accumulator:
            return Statistics(rows=0, label_mean=0.0, window={}, features={})
        rows, label_mean, _ = accumulator[""]
        low, high = accumulator["window"]
        features = {}
        for feature in self.schema.all_features:
            part = accumulator.get("feature:" + feature.name)
            if isinstance(part, Counter):
                top = sorted(part.items(), key=lambda item: (-item[1], item[0]))[
                    : feature.max_vocabulary
                ]
                features[feature.name] = {
                    "vocabulary": [t for t, _ in top],
                    "counts": [c for _, c in top],
                }
            elif part is not None:
                features[feature.name] = {
                    "mean": part[1].tolist(),
                    "variance": (part[2] / part[0]).tolist(),
                }
        for feature in self._quantile_features():
            values = accumulator["sample"].values[feature.name]
            features[feature.name] |= quantile_statistics(values, feature.bins)
        return Statistics(
            rows=rows,
            label_mean=float(label_mean[0]),
            window={"start": low, "end": high},
            features=features,
        )


def _add(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    if not total:
        return part
    if not part:
        return total
    for name, value in part.items():
        if name == "window":
            total[name] = (min(total[name][0], value[0]), max(total[name][1], value[1]))
        elif isinstance(value, Counter):
            total[name].update(value)
        elif isinstance(value, Sample):
            total[name] = total[name].merge(value)
        else:
            total[name] = add_moments(total[name], value)
    return total
