"""What the rows of the splits come to."""

from __future__ import annotations

import pyarrow as pa

from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SummariseSplits
from limaml_beam.rows.columnar import LABEL, TIME
from tfrec_limaml.schema.columns import DAY_MS

SETTINGS = TaskSettings(definitions=("user",), validation_start=10, test_start=20, recent_only=True)


def test_the_days_with_rows_are_those_of_all_blocks_and_implausible_times_have_none():
    combine = SummariseSplits(SETTINGS)
    day = 20_000

    def block(*times):
        return pa.table(
            {TIME: pa.array(times, pa.int64()), LABEL: pa.array([1.0] * len(times), pa.float32())}
        )

    blocks = [
        block((day + 2) * DAY_MS, (day + 1) * DAY_MS - 1, 5),
        block((day + 2) * DAY_MS + 7, *(10**15 + n * DAY_MS for n in range(100))),
        block(day * DAY_MS - 1),
    ]
    parts = [combine.add_input(combine.create_accumulator(), part) for part in blocks]
    summary = combine.merge_accumulators(parts)
    assert summary.rows_by_day == ((day - 1, 1), (day, 1), (day + 2, 2))
    assert sum(summary.rows) == 105
