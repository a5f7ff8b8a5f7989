"""Limits of data cards and of the commands that write them; no library is imported for them."""

from __future__ import annotations

#: Largest share of rows without a value of a column that is not warned of.
WARN_MISSING = 0.1
#: Largest share of invalid rows that `limaml prepare` accepts by default.
MAX_INVALID = 0.05
#: Number of tested tasks from which results have intervals, as in `tfrec_limaml.evaluation`.
MIN_TEST_TASKS = 30
#: Largest share of the rows that one task may have without a warning.
MAX_SHARE_OF_TASK = 0.5
