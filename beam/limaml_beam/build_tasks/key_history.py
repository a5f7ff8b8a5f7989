"""Point-in-time history features: the values that a feature store would have returned.

A training row sees the rows of its key with a strictly earlier timestamp. A validation or test row
sees what was known when its split began, as after a job that computes the numbers once, at that
time. The rate is smoothed towards the mean label of all training rows. A run without evaluation
splits treats every row as a training row: it needs the prior that the model was trained with,
because otherwise its rates would differ from those in training.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.build_tasks.grouping import TRAIN, VALIDATION, segments
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import MOMENT, TIME, key_column
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import History, Schema


@dataclasses.dataclass(frozen=True)
class KeyHistory:
    """Rows of many keys, sorted by key and time, for look-ups "as of" any time.

    Attributes:
        codes: Key of each row ``[n]``, ``0 .. keys - 1``, ascending.
        times: Milliseconds ``[n]``, ascending within a key.
        sums: Running sum of labels ``[n + 1]``.
    """

    codes: Integers
    times: Integers
    sums: npt.NDArray[np.float64]

    @classmethod
    def from_rows(
        cls, codes: Integers, times: Integers, labels: npt.NDArray[np.float64]
    ) -> KeyHistory:
        """Sorts the rows."""
        order = np.lexsort((times, codes))
        return cls(codes[order], times[order], np.concatenate([[0.0], np.cumsum(labels[order])]))

    def as_of(
        self, codes: Integers, moments: Integers, prior: float, smoothing: float
    ) -> tuple[npt.NDArray[np.float64], Integers, npt.NDArray[np.float64]]:
        """Smoothed rate, count and recency (days; -1 without a row) of each key from rows strictly
        before each time, all ``[m]``.
        """
        times = np.unique(self.times)
        stride = len(times) + 1
        row_ranks = self.codes * stride + np.searchsorted(times, self.times)
        before = np.searchsorted(row_ranks, codes * stride + np.searchsorted(times, moments))
        start = np.searchsorted(self.codes, codes)
        count = before - start
        total = self.sums[before] - self.sums[start]
        weight = count + smoothing
        rate = np.where(
            weight > 0, (total + smoothing * prior) / np.where(weight > 0, weight, 1.0), prior
        )
        last = self.times[np.maximum(before - 1, 0)]
        return rate, count, np.where(count > 0, (moments - last) / DAY_MS, -1.0)


def moments_of(table: pa.Table, settings: TaskSettings) -> Integers:
    """The time up to which each row sees history: its own, or the start of its evaluation split."""
    if MOMENT in table.column_names:
        return columnar.to_numpy(table[MOMENT])
    times, segment = columnar.to_numpy(table[TIME]), segments(table, settings)
    return np.where(
        segment == TRAIN,
        times,
        np.where(segment == VALIDATION, settings.validation_start, settings.test_start),
    )


def one_row_per_token(rows: pa.Table, schema: Schema, history: History) -> pa.Table:
    """Repeats each row for every value of multi-valued keys, if the history is per token.

    A value that a row has twice counts once. A row without any has the empty one.
    """
    if not history.per_token:
        return rows
    separators = {f.name: f.separator for f in schema.features if f.separator is not None}
    for name in history.keys:
        if name in separators:
            lists = pc.split_pattern(rows[key_column(name)].combine_chunks(), separators[name])
            row, tokens = pc.list_parent_indices(lists), lists.flatten()
            once = pa.array(_first_of_each(columnar.to_numpy(row), tokens))
            rows, tokens = rows.take(row.take(once)), tokens.take(once)
            position = rows.column_names.index(key_column(name))
            rows = rows.set_column(position, key_column(name), tokens)
    return rows


def _first_of_each(row: Integers, tokens: pa.Array) -> Integers:
    """Positions of the distinct tokens of each row, and of one empty token of a row of no others.

    Args:
        row: Number of the row of each token, ascending.
        tokens: The tokens.
    """
    code, _ = columnar.codes_of(tokens)
    pairs = row.astype(np.int64) * (int(code.max(initial=0)) + 1) + code
    first = np.zeros(len(row), bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    empty = columnar.to_numpy(pc.equal(tokens, ""))
    filled = np.bincount(row, ~empty, int(row.max(initial=-1)) + 1)[row] > 0
    positions: Integers = np.flatnonzero(first & ~(empty & filled))
    return positions


def stem(history: History) -> str:
    """File name of a history's online copy, without the extension."""
    return "_".join(history.keys)
