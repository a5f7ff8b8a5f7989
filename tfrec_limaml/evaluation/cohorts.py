"""Groups of scored rows: slices by length of history, and cohorts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrec_limaml.arrays import Array
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.record_files import read_records

Rows = Mapping[str, Array]

#: Lower bounds of the slices by samples in the support set.
HISTORY_BOUNDS = (0, 1, 3, 6, 12, 25)
#: The paper splits tasks at this number of samples in the test data.
PAPER_BOUND = 25


def history_slices(
    history: Array, bounds: Sequence[int] = HISTORY_BOUNDS
) -> Iterator[tuple[str, Array]]:
    """Names and row masks ``[N]`` of the non-empty slices, by samples in the row's support set."""
    for lower, upper in zip(bounds, [*bounds[1:], None], strict=True):
        mask = (history >= lower) & (history < (np.inf if upper is None else upper))
        if mask.any():
            yield _slice_name(lower, upper), mask


def cohorts(
    rows: Rows, trained_keys: Collection[bytes] | None = None, dormant_days: float = 7.0
) -> Iterator[tuple[str, Array]]:
    """Names and row masks ``[N]`` of the cohorts; some may have no rows.

    - ``cold``: no record of the row's task was trained on (needs `trained_keys`).
    - ``dormant``: the task's support set has no row in the last `dormant_days` days before the
      task's first scored row (needs the columns ``timestamp`` and ``last_seen``).
    - ``active``: neither.
    - ``under 25 rows`` and ``25 rows or more``: by the task's scored rows, the paper's slices.

    Args:
        rows: Scored rows with ``task_key``.
        trained_keys: Task keys of the training records; see `task_keys`.
        dormant_days: Days without rows that make a task dormant.
    """
    keys, task = np.unique(rows["task_key"], return_inverse=True)
    remaining = np.ones(len(task), bool)
    if trained_keys is not None:
        trained = set(trained_keys)
        cold = np.array([key not in trained for key in keys], bool)[task]
        remaining &= ~cold
        yield "cold", cold
    if "timestamp" in rows and "last_seen" in rows:
        first = np.full(len(keys), np.iinfo(np.int64).max)
        np.minimum.at(first, task, rows["timestamp"])
        silent = first[task] - rows["last_seen"] > dormant_days * DAY_MS
        # Without any row in its support set: older than the window, if the task was trained on.
        dormant = silent if trained_keys is not None else silent & (rows["last_seen"] > 0)
        yield "dormant", dormant & remaining
        remaining &= ~dormant
        yield "active", remaining
    yield from paper_slices(task)


def paper_slices(task: Array) -> Iterator[tuple[str, Array]]:
    """Names and row masks ``[N]`` of the paper's two slices, by scored rows of the row's task."""
    is_frequent = np.bincount(task)[task] >= PAPER_BOUND
    yield f"under {PAPER_BOUND} rows", ~is_frequent
    yield f"{PAPER_BOUND} rows or more", is_frequent


def task_keys(files: Sequence[str]) -> set[bytes]:
    """The task keys in files of task records."""
    feature = {record_format.TASK_KEY: tf.io.FixedLenFeature([], tf.string)}

    @tf.autograph.experimental.do_not_convert
    def keys(serialized: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_sequence_example(serialized, context_features=feature)[0][
            record_format.TASK_KEY
        ]

    batches = read_records(files).batch(1024).map(keys)
    return {key for batch in batches.as_numpy_iterator() for key in batch}


def _slice_name(lower: int, upper: int | None) -> str:
    if upper is None:
        return f"{lower}+"
    return str(lower) if upper == lower + 1 else f"{lower}-{upper - 1}"
