"""The split into training, validation and test rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.declarations import check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Date ranges, or shares of each task's rows, for training, validation and test.

    The ranges are ``[train_start, validation_start)``, ``[validation_start, test_start)`` and
    ``[test_start, test_end)``.

    Dates are ISO 8601 strings, in UTC if they have no offset. `train_start` and `test_end` may be
    ``None``: the range is then open at this end.

    Attributes:
        per_task: Shares of the rows of each task of the default definition, in time order, that are
            train, validation and test rows; instead of dates. Training rows of one task may then be
            later than test rows of another, which leaks information about items.

    Raises:
        SchemaError: Both dates and shares are given, or neither; the dates do not increase, or the
            shares are not positive or do not sum to 1.
    """

    validation_start: str | None = None
    test_start: str | None = None
    train_start: str | None = None
    test_end: str | None = None
    per_task: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        check_types(self, "split")
        if self.per_task is not None:
            self._check_shares(self.per_task)
            return
        if self.validation_start is None or self.test_start is None:
            raise SchemaError("split needs validation_start and test_start, or per_task")
        marks = [self.train_start, self.validation_start, self.test_start, self.test_end]
        times = [parse_time(mark) for mark in marks if mark is not None]
        if times != sorted(set(times)):
            raise SchemaError(
                "split dates must increase strictly, received "
                f"{[m for m in marks if m is not None]}"
            )

    def _check_shares(self, shares: Sequence[float]) -> None:
        dates = [self.validation_start, self.test_start, self.train_start, self.test_end]
        if any(mark is not None for mark in dates):
            raise SchemaError("split takes per_task or dates, received both")
        valid = len(shares) == 3 and all(isinstance(s, (int, float)) and s > 0 for s in shares)
        if not valid or abs(sum(shares) - 1.0) > 1e-6:
            raise SchemaError(
                "split.per_task needs three positive shares that sum to 1, for example "
                f"[0.6, 0.2, 0.2]; received {list(shares)}"
            )
        object.__setattr__(self, "per_task", tuple(float(s) for s in shares))

    def starts(self) -> tuple[str, str]:
        """The dates from which on rows are validation rows and test rows.

        Raises `SchemaError` for a split within tasks, which has none.
        """
        if self.validation_start is None or self.test_start is None:
            raise SchemaError(f"a split within tasks ({self.per_task}) has no dates")
        return self.validation_start, self.test_start


def parse_time(value: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 date or time, in UTC if it has no offset.

    Raises:
        SchemaError: The value cannot be read.
    """
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise SchemaError(
            f"cannot read {value!r} as an ISO 8601 date or time (for example 2022-05-03 or "
            "2022-05-03T00:00:00+08:00)"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)
