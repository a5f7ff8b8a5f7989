"""Settings of the task-building pipeline: a small picklable object for the workers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Schema, Split, parse_time

FAR_PAST, FAR_FUTURE = -(2**62), 2**62


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The settings that the workers need besides the schema.

    Attributes:
        definitions: Names of the task definitions to build.
        validation_start, test_start: Dates between train, validation and test rows, milliseconds.
        first, last: Rows outside ``[first, last)`` are left out and counted, milliseconds.
        query_period: Length of the period whose rows are the query rows of an episode of a split by
            date, milliseconds: that of the validation rows.
        recent_only: Write only ``recent`` records (a daily job without evaluation rows).
        window: Length of the window that support rows may come from, milliseconds.
        max_samples: Maximum number of support rows per task; the most recent rows are kept.
        max_query: Maximum number of query rows per task; the most recent rows are kept.
        shards: Output files per split; also the number of groups of tasks.
        partitions: Number of groups of rows for the removal of duplicates and for history features.
        batch_rows: Rows per block as read.
        task_shares: Shares of each task's rows that are train, validation and test rows, in time
            order; None to split by date.
        split_definition: The task definition whose rows `task_shares` divides.
        episodes: Support/query splits that are written of each training task; see
            `limaml_beam.build_tasks.episodes`.
        prior: Mean label that history rates are smoothed towards; None for the mean label of this
            run's training rows.
        erased: Digests of erased task keys, whose rows are left out.
        keep_rows: Write the rows of recent records beside them; see `kept_rows`.
    """

    definitions: tuple[str, ...]
    validation_start: int
    test_start: int
    first: int = FAR_PAST
    last: int = FAR_FUTURE
    query_period: int = 0
    recent_only: bool = False
    window: int = FAR_FUTURE
    max_samples: int = PrepareOptions.max_samples
    max_query: int = PrepareOptions.max_query
    shards: int = 4
    partitions: int = 4
    batch_rows: int = 65_536
    task_shares: tuple[float, float, float] | None = None
    split_definition: str | None = None
    episodes: int = 0
    prior: float | None = None
    erased: frozenset[bytes] = frozenset()
    keep_rows: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "max_samples", "shards", "partitions", "batch_rows"):
            if getattr(self, name) < 1:
                raise LimamlError(f"{name} must be at least 1, received {getattr(self, name)}")
        if self.episodes < 0:
            raise LimamlError(f"episodes must be at least 0, received {self.episodes}")
        if self.max_query < self.max_samples:
            raise LimamlError(
                f"max_query must be at least max_samples, received {self.max_query} < "
                f"{self.max_samples}: "
                "evaluation rows become support rows of the next split"
            )

    @property
    def support_start(self) -> int:
        """Start of the window before `validation_start`."""
        return self.validation_start - self.window

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows."""
        if self.task_shares is not None:
            return self.task_shares[1] > 0
        return self.test_start > self.validation_start

    @property
    def recent_start(self) -> int:
        """Start of the window before `test_start`."""
        return self.test_start - self.window


def date_fields(
    schema: Schema,
    *,
    validation_start: str | None = None,
    test_start: str | None = None,
    train_start: str | None = None,
    test_end: str | None = None,
    window_days: float | None = None,
    no_validation: bool = False,
    recent_only: bool = False,
    window_end: str | None = None,
) -> dict[str, Any]:
    """The date fields of `TaskSettings`, from ISO 8601 dates or the schema's split.

    Raises:
        LimamlError: No dates, dates in the wrong order, or a window that is not positive.
    """
    window = _window(window_days)
    if recent_only:
        return _recent_dates(window, window_end, no_validation)
    if schema.split is not None and schema.split.per_task is not None:
        dates = (validation_start, test_start, train_start, test_end, window_days, window_end)
        return _no_dates(schema, schema.split.per_task, dates, no_validation)
    if window_end is not None:
        raise LimamlError(
            "window_end (--window-end) needs recent_only (--recent-only); with evaluation splits "
            "the window ends at validation_start and test_start"
        )
    schema_split = schema.split
    validation_start = validation_start or (schema_split.validation_start if schema_split else None)
    test_start = test_start or (schema_split.test_start if schema_split else None)
    if validation_start is None or test_start is None:
        raise LimamlError(
            f"schema {schema.name!r} has no split: give validation_start and test_start "
            "(--validation-start, --test-start), or recent_only (--recent-only) for a job without "
            "evaluation"
        )
    split = Split(
        validation_start=validation_start,
        test_start=test_start,
        train_start=train_start or (schema_split.train_start if schema_split else None),
        test_end=test_end or (schema_split.test_end if schema_split else None),
    )
    return _split_dates(split, window, no_validation)


def _window(days: float | None) -> int:
    """The length of the window in milliseconds."""
    if days is not None and not 0 < days < math.inf:
        raise LimamlError(
            f"window_days (--window-days) must be positive and finite, received {days}"
        )
    return FAR_FUTURE if days is None else round(days * DAY_MS)


def _recent_dates(window: int, window_end: str | None, no_validation: bool) -> dict[str, Any]:
    """The window of a job without evaluation rows; it ends now unless its end is given."""
    if no_validation:
        raise LimamlError(
            "no_validation (--no-validation) and recent_only (--recent-only) cannot be combined: "
            "the latter writes no training records"
        )
    end = parse_time(window_end) if window_end is not None else round(time.time() * 1000)
    return {
        "validation_start": end,
        "test_start": end,
        "first": max(FAR_PAST, end - window),
        "last": end,
        "window": window,
        "recent_only": True,
    }


def _no_dates(
    schema: Schema,
    shares: tuple[float, float, float],
    dates: Sequence[Any],
    no_validation: bool,
) -> dict[str, Any]:
    """The dates of a split within tasks: none; raises `LimamlError` if any are given."""
    if any(value is not None for value in dates):
        raise LimamlError(
            f"schema {schema.name!r} splits within tasks ({list(shares)}): "
            "leave out the dates and the window, or the shares (--split-per-task, or "
            "split.per_task of the schema)"
        )
    train, validation, test = shares
    if no_validation:
        shares = (train + validation, 0.0, test)
    return {
        "validation_start": FAR_FUTURE,
        "test_start": FAR_FUTURE,
        "window": 2 * FAR_FUTURE,
        "task_shares": shares,
        "split_definition": schema.default_task,
    }


def _split_dates(split: Split, window: int, no_validation: bool) -> dict[str, Any]:
    """The dates of a split by date."""
    validation_ms, test_ms = map(parse_time, split.starts())
    query_period = test_ms - validation_ms
    if no_validation:
        validation_ms = test_ms
    start = FAR_PAST if split.train_start is None else parse_time(split.train_start)
    return {
        "validation_start": validation_ms,
        "test_start": test_ms,
        "first": max(start, validation_ms - window),
        "last": FAR_FUTURE if split.test_end is None else parse_time(split.test_end),
        "window": window,
        "query_period": query_period,
    }
