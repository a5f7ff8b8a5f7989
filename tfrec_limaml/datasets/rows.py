"""Rows as the readers of files give them: those of a table, and those that cannot be in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from tfrec_limaml.errors import SchemaError

#: Reasons of `BadRow`.
FIELDS, NOT_UTF8 = "number_of_fields", "not_utf8"


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row of a text file that has no place in its table.

    Attributes:
        line: Its line; the header is line 1. Empty lines, and line breaks inside quotes, do not
            count.
        reason: `FIELDS` or `NOT_UTF8`.
        text: What stands there.
    """

    line: int
    reason: str
    text: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a file: those of the table, and those that cannot be in it."""

    table: pa.Table
    bad: tuple[BadRow, ...] = ()

    @property
    def count(self) -> int:
        """Rows read."""
        return int(self.table.num_rows) + len(self.bad)


def check_names(names: Sequence[str]) -> None:
    """Raises `SchemaError` where two columns have one name."""
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"columns of the same name: {double}; rename or drop one of each")
