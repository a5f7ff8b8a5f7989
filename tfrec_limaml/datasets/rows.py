"""Rows that file readers return: those of a table, and malformed ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from tfrec_limaml.errors import SchemaError

#: Reasons of `BadRow`.
FIELDS, NOT_UTF8 = "number_of_fields", "not_utf8"


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A malformed row of a text file.

    Attributes:
        line: Its line number; the header is line 1. Empty lines, and line breaks inside quotes, are
            not counted.
        reason: `FIELDS` or `NOT_UTF8`.
        text: The row.
    """

    line: int
    reason: str
    text: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    Attributes:
        table: The rows of the table.
        bad: Malformed rows.
        unnamed: Number of the file's columns without a name, which are left out; only with the
            file's first rows.
    """

    table: pa.Table
    bad: tuple[BadRow, ...] = ()
    unnamed: int = 0

    @property
    def count(self) -> int:
        """Number of rows read."""
        return int(self.table.num_rows) + len(self.bad)


def check_names(names: Sequence[str]) -> None:
    """Raises `SchemaError` if two columns have the same name."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"columns of the same name: {repeated}; rename or drop one of each")
