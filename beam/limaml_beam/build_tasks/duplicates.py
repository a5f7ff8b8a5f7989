"""Drops repeated rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from limaml_beam.build_tasks.row_checks import DUPLICATE
from limaml_beam.build_tasks.validation import COUNTS
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER, TIME
from limaml_beam.rows.shuffle import Shuffle


class DropDuplicates(beam.DoFn):
    """(partition, packed blocks) -> (partition, one block of distinct rows).

    All copies of a row must be in the same partition.
    """

    def __init__(self, shuffle: Shuffle) -> None:
        self.shuffle = shuffle

    def process(
        self, element: tuple[int, Iterable[bytes]]
    ) -> Iterator[tuple[int, pa.Table] | beam.pvalue.TaggedOutput]:
        """Concatenates, sorts by content and drops repeats."""
        table = self.shuffle.unpack_all(element[1])
        times, order = columnar.to_numpy(table[TIME]), columnar.to_numpy(table[ORDER])
        ranking = np.lexsort((times, order))
        repeat = np.zeros(len(ranking), bool)
        repeat[1:] = (np.diff(order[ranking]) == 0) & (np.diff(times[ranking]) == 0)
        dropped = int(repeat.sum())
        if dropped:
            Metrics.counter("build_tasks", f"skipped:{DUPLICATE}").inc(dropped)
        yield beam.pvalue.TaggedOutput(
            COUNTS, {f"skipped:{DUPLICATE}": dropped, "rows_used": len(ranking) - dropped}
        )
        yield element[0], table.take(pa.array(ranking[~repeat]))
