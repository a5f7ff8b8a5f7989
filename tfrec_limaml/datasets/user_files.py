"""Users' files: text or Parquet, with a schema."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tfrec_limaml.datasets import part_files, table_files
from tfrec_limaml.datasets.conform import interaction_columns
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.rows import NOT_UTF8, BadRow, Rows
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.arrow_keys import simple_array
from tfrec_limaml.schema.column_values import is_list
from tfrec_limaml.schema.schema import Schema

#: Share of malformed rows above which a file is refused, as in ``limaml prepare``.
MAX_MALFORMED = 0.05
_BATCH_ROWS = 1 << 16
_READ_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one or several files.

    Attributes:
        frame: The rows.
        malformed: Number of malformed rows, by reason.
        files: For a folder or a pattern: the number of files ``read``, those that are ``empty``,
            and the number of ``markers``.
        unnamed: Number of columns without a name, which are left out; of several files the largest.
    """

    frame: pd.DataFrame
    malformed: Mapping[str, int]
    files: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unnamed: int = 0


def load_own(
    schema: str | Path,
    interactions: str | Path,
    tables: Mapping[str, str | Path],
    text: TextFormat | None = None,
) -> RawData:
    """Reads a schema and the files that it describes.

    Raises:
        SchemaError: A file is missing, empty or unreadable, a feature table has a malformed row, or
            a table is given that the schema does not join.
    """
    declared = Schema.load(schema)
    for name in tables:
        if name not in declared.tables:
            raise SchemaError(
                f"--table {name}: the schema {declared.name!r} joins "
                f"{sorted(declared.tables) or 'no table'}"
            )
    read = read_table(interactions, text, needed=interaction_columns(declared))
    return RawData(
        schema=declared,
        interactions=read.frame,
        tables={
            name: read_table(path, text, max_malformed=0.0, needed=()).frame
            for name, path in tables.items()
        },
        dropped=read.malformed,
        source={"files": [Path(p).name for p in (interactions, *tables.values())], **read.files},
    )


def read_table(
    path: str | Path,
    text: TextFormat | None = None,
    max_malformed: float = MAX_MALFORMED,
    needed: Collection[str] | None = None,
) -> Table:
    """Reads CSV, TSV or Parquet files; see `tfrec_limaml.datasets.table_files`.

    Args:
        path: A file, a folder of files (at any depth), or a pattern.
        text: Format of text files.
        max_malformed: Largest share of rows that may be malformed: with another number of fields
            than the header has, or not in UTF-8.
        needed: Columns that each of several files must have; all columns by default. Others are
            left out if a file lacks them.

    Raises:
        SchemaError: The path does not exist, is empty, of another kind, damaged, or has too many
            malformed rows; the message has the first of them with its line.
    """
    parts, skipped_files = part_files.find(path)
    tables: dict[str, pa.Table] = {}
    bad_rows: list[tuple[str, BadRow]] = []
    unnamed = 0
    for file in parts:
        rows = _read_file(file, text or TextFormat())
        tables[file] = pa.concat_tables([part.table for part in rows])
        bad_rows += [(file, row) for part in rows for row in part.bad]
        unnamed = max(unnamed, *(part.unnamed for part in rows), 0)
    table = part_files.concatenate(tables, needed)
    _check_malformed(table.num_rows, bad_rows, max_malformed)
    if not table.num_rows:
        raise SchemaError(f"{path} has a header, but no rows")
    counts = Counter(f"malformed row ({row.reason})" for _, row in bad_rows)
    return Table(_frame(table), dict(counts), skipped_files, unnamed)


def _read_file(path: str, text: TextFormat) -> list[Rows]:
    def open_file() -> Any:
        return table_files.decompressed(path, open(path, "rb"))

    try:
        return list(table_files.read_file(path, open_file, None, _BATCH_ROWS, text))
    except SchemaError as error:
        raise SchemaError(f"cannot read {path}: {error}") from error
    except _READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise SchemaError(f"cannot read {path}: {reason}; is the file complete?") from error


def _check_malformed(good_count: int, bad_rows: list[tuple[str, BadRow]], limit: float) -> None:
    rows = good_count + len(bad_rows)
    if len(bad_rows) > limit * rows:
        path, first = min(bad_rows, key=lambda item: (item[0], item[1].line))
        raise SchemaError(
            f"cannot read {path}: {len(bad_rows)} of {rows} rows are malformed, first line "
            f"{first.line} ({first.reason}): {_text(first)}"
        )


def _text(row: BadRow) -> str:
    text = row.text[:200]
    if row.reason != NOT_UTF8:
        return repr(text)
    # Its bytes are escaped already.
    return f"{' '.join(text.split())}; save the file as UTF-8"


def _frame(table: pa.Table) -> pd.DataFrame:
    """Columns as pandas types; integers with missing values do not become floats."""
    types: dict[Any, Any] = {pa.string(): pd.StringDtype(), pa.bool_(): pd.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        types[getattr(pa, f"int{bits}")()] = getattr(pd, f"Int{bits}Dtype")()
        types[getattr(pa, f"uint{bits}")()] = getattr(pd, f"UInt{bits}Dtype")()
    columns = {}
    for name in table.column_names:
        column = simple_array(table[name])
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        if is_list(column.type) and pa.types.is_integer(column.type.value_type):
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        elif pa.types.is_temporal(column.type):
            columns[name] = pd.Series(column, dtype=pd.ArrowDtype(column.type))
        else:
            columns[name] = column.to_pandas(types_mapper=types.get)
    return pd.DataFrame(columns)
