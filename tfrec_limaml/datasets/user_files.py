"""The user's own files: text or Parquet, with a schema."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tfrec_limaml.datasets import table_files
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.table_files import BadRow, Rows
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.arrow_keys import plain
from tfrec_limaml.schema.schema import Schema

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".parquet")
#: Share of malformed rows above which a file is refused, as in ``limaml prepare``.
MAX_MALFORMED = 0.05
_BATCH_ROWS = 1 << 16
_BROKEN = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's rows, and how many could not be rows, by reason."""

    frame: pd.DataFrame
    malformed: Mapping[str, int]


def load_own(
    schema: str | Path, interactions: str | Path, tables: Mapping[str, str | Path]
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
    read = read_table(interactions)
    return RawData(
        schema=declared,
        interactions=read.frame,
        tables={name: read_table(path, max_malformed=0.0).frame for name, path in tables.items()},
        dropped=read.malformed,
        source={"files": [Path(p).name for p in (interactions, *tables.values())]},
    )


def read_table(path: str | Path, max_malformed: float = MAX_MALFORMED) -> Table:
    """Reads a CSV, TSV or Parquet file; see `tfrec_limaml.datasets.table_files`.

    Args:
        path: The file.
        max_malformed: Largest share of rows that may be malformed: with another number of fields
            than the header has, or not in UTF-8.

    Raises:
        SchemaError: Not there, empty, of another kind, broken, or with too many malformed rows; the
            first of them is named with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise SchemaError(f"no file at {path}")
    if table_files.kind_of(path.name) is None:
        raise SchemaError(
            f"cannot tell the format of {path}; give a file that ends in one of {list(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise SchemaError(f"{path} is empty")
    tables: list[pa.Table] = []
    bad: list[BadRow] = []
    try:
        for rows in _rows(path):
            tables.append(rows.table)
            bad += rows.bad
    except SchemaError as error:
        raise SchemaError(f"cannot read {path}: {error}") from error
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise SchemaError(f"cannot read {path}: {reason}; is the file complete?") from error
    whole = pa.concat_tables(tables)
    _check_malformed(path, whole.num_rows, bad, max_malformed)
    if not whole.num_rows:
        raise SchemaError(f"{path} has a header, but no rows")
    counts = Counter(f"malformed row ({row.reason})" for row in bad)
    return Table(_frame(whole), dict(counts))


def _rows(path: Path) -> Iterator[Rows]:
    if table_files.kind_of(path.name) == "parquet":
        with path.open("rb") as handle:
            yield from table_files.read_parquet(handle, None, _BATCH_ROWS)
        return
    packed = path.name.lower().endswith(".gz")
    open_file = functools.partial(gzip.open if packed else open, path, "rb")
    yield from table_files.read_csv(open_file, None, _BATCH_ROWS)


def _check_malformed(path: Path, good: int, bad: list[BadRow], limit: float) -> None:
    if len(bad) > limit * (good + len(bad)):
        first = min(bad, key=lambda row: row.line)
        raise SchemaError(
            f"cannot read {path}: {len(bad)} of {good + len(bad)} rows are malformed, first line "
            f"{first.line} ({first.reason}): {first.text[:200]!r}"
        )


def _frame(table: pa.Table) -> pd.DataFrame:
    """Columns as pandas has them, none of them through floats: integers with gaps stay integers."""
    types: dict[Any, Any] = {pa.string(): pd.StringDtype(), pa.bool_(): pd.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        types[getattr(pa, f"int{bits}")()] = getattr(pd, f"Int{bits}Dtype")()
        types[getattr(pa, f"uint{bits}")()] = getattr(pd, f"UInt{bits}Dtype")()
    columns = {}
    for name in table.column_names:
        column = plain(table[name])
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        if pa.types.is_temporal(column.type):
            columns[name] = pd.Series(column, dtype=pd.ArrowDtype(column.type))
        else:
            columns[name] = column.to_pandas(types_mapper=types.get)
    return pd.DataFrame(columns)
