"""Finds cells of text files whose quotation mark is not closed.

Such a cell, for example ``"27 inch``, ends at the next quotation mark, many rows later. A reader
that takes all of them for one cell loses them without an error.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.errors import SchemaError

#: Least number of whole lines in a cell that are taken for rows, and the share of them that have as
#: many separators as a row. A text of several lines rarely has them.
SWALLOWED, _SHARE = 5, 0.6
#: The same number for files of up to three columns, whose separators texts have too.
_SWALLOWED_OF_FEW_COLUMNS = 50
#: Number of a cell's lines that are examined.
_EXAMINED = 1000


def check_cells(batch: pa.RecordBatch, separator: str) -> None:
    """Raises `SchemaError` if a cell holds rows of its file.

    Args:
        batch: Rows with all columns of the file, as text.
        separator: The character between cells.
    """
    for column in batch.columns:
        has_break = np.asarray(pc.fill_null(pc.match_substring(column, "\n"), False))
        for text in column.filter(pa.array(has_break)).to_pylist():
            check_text(text, batch.num_columns, separator)


def check_text(text: str, columns: int, separator: str) -> None:
    """As `check_cells`, for one cell or malformed row of a file with so many columns."""
    lines = text.split("\n")[1:-1]
    least = SWALLOWED if columns > 3 else _SWALLOWED_OF_FEW_COLUMNS
    examined = lines[:_EXAMINED]
    rows = sum(line.count(separator) == columns - 1 for line in examined)
    if len(lines) >= least and rows >= _SHARE * len(examined):
        start = text.partition("\n")[0]
        start = start[start.rfind(f'{separator}"') + 1 :]
        raise SchemaError(
            f"a quotation mark is not closed: the cell that begins with {start[:60]!r} goes on for "
            f"{len(lines) + 1} more lines, which are rows; inside a quoted cell, write a quotation "
            "mark as two, or pass --no-quotes if the file has no quoted cells"
        )
