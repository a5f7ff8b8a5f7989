"""Limits of data cards and of the commands that write them; no library is imported for them."""

from __future__ import annotations

#: Largest share of rows without a value of a column that is not warned of.
WARN_MISSING = 0.1
#: Largest share of invalid rows that `limaml prepare` accepts by default.
MAX_INVALID = 0.05
#: Number of tested tasks from which results have intervals, as in `tfrec_limaml.evaluation`.
MIN_TEST_TASKS = 30
#: What to say of fewer tested tasks.
FEW_TESTED = (
    f"results of fewer than {MIN_TEST_TASKS} have no intervals: use more rows, an earlier "
    "test_start or finer tasks"
)
#: Share of the evaluated tasks that must have earlier rows, without a warning.
MIN_WITH_HISTORY = 0.2
#: Largest share of the rows that one task may have without a warning.
MAX_SHARE_OF_TASK = 0.5
