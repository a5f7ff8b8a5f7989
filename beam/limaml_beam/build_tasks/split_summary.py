"""Rows, labels and time span of each split, for the data card and the history features."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks.grouping import TRAIN, segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import LABEL, TIME
from tfrec_limaml.schema.column_times import implausible
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.tasks.folder import PARTS
from tfrec_limaml.wording import utc_text


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """Rows, labels and times of a run.

    Attributes:
        rows: Number of rows of each split.
        label_sum: Sum of the labels of each split.
        first, last: First and last time of each split in milliseconds; None without rows.
        rows_by_day: (day, rows) for each day (UTC, since 1970, sorted) with rows of any split.
            Implausible times are not counted, which limits the number of days.
    """

    rows: tuple[int, ...] = (0, 0, 0)
    label_sum: tuple[float, ...] = (0.0, 0.0, 0.0)
    first: tuple[int | None, ...] = (None, None, None)
    last: tuple[int | None, ...] = (None, None, None)
    rows_by_day: tuple[tuple[int, int], ...] = ()

    def label_mean(self, split: int) -> float:
        """Mean label of a split; 0 without rows."""
        return self.label_sum[split] / self.rows[split] if self.rows[split] else 0.0

    def prior(self, settings: TaskSettings) -> float:
        """The mean label that history rates are smoothed towards."""
        return self.label_mean(TRAIN) if settings.prior is None else settings.prior

    def history_end(self, settings: TaskSettings) -> int:
        """The time at which the online copy of history features is frozen, in milliseconds.

        The start of the test rows, or the end of the data if each task has its own split.
        """
        if settings.task_shares is None:
            return settings.test_start
        return 1 + max(last for last in self.last if last is not None)

    def __add__(self, other: SplitSummary) -> SplitSummary:
        def best(pick: Any, a: int | None, b: int | None) -> int | None:
            return pick(x for x in (a, b) if x is not None) if (a, b) != (None, None) else None

        return SplitSummary(
            tuple(a + b for a, b in zip(self.rows, other.rows, strict=True)),
            tuple(a + b for a, b in zip(self.label_sum, other.label_sum, strict=True)),
            tuple(best(min, a, b) for a, b in zip(self.first, other.first, strict=True)),
            tuple(best(max, a, b) for a, b in zip(self.last, other.last, strict=True)),
            _sum_by_day(self.rows_by_day, other.rows_by_day),
        )

    def describe(self) -> dict[str, Any]:
        """The entry of the data card."""
        return {
            name: {
                "rows": self.rows[i],
                "label_rate": self.label_mean(i),
                "first": _time_of(self.first[i]),
                "last": _time_of(self.last[i]),
            }
            for i, name in enumerate(PARTS)
        }


class SummariseSplits(beam.CombineFn):
    """Blocks -> `SplitSummary`."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    def create_accumulator(self) -> SplitSummary:
        """An empty accumulator."""
        return SplitSummary()

    def add_input(self, accumulator: SplitSummary, block: pa.Table) -> SplitSummary:
        """Adds a block."""
        times = columnar.to_numpy(block[TIME])
        segment = segments(block, self.settings)
        parts = [segment == index for index in range(len(PARTS))]
        labels = columnar.to_numpy(block[LABEL]).astype(np.float64)
        return accumulator + SplitSummary(
            tuple(int(part.sum()) for part in parts),
            tuple(float(labels[part].sum()) for part in parts),
            tuple(int(times[part].min()) if part.any() else None for part in parts),
            tuple(int(times[part].max()) if part.any() else None for part in parts),
            _rows_by_day(times),
        )

    def merge_accumulators(self, accumulators: Iterable[SplitSummary]) -> SplitSummary:
        """Merges accumulators."""
        return sum(accumulators, SplitSummary())

    def extract_output(self, accumulator: SplitSummary) -> SplitSummary:
        """The summary itself."""
        return accumulator


def _rows_by_day(times: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    days, rows = np.unique(times[~implausible(times)] // DAY_MS, return_counts=True)
    return tuple(zip(days.tolist(), rows.tolist(), strict=True))


def _sum_by_day(*parts: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    total: Counter[int] = Counter()
    for part in parts:
        total.update(dict(part))
    return tuple(sorted(total.items()))


def _time_of(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else utc_text(milliseconds, "milliseconds")
