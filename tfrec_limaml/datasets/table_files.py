"""Reads rows of Parquet and text files as Arrow tables.

``limaml datasets`` and ``limaml prepare`` share this module.

Folders ``name=value`` above a file are text columns (`partitions`), unless the file has a column of
that name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tfrec_limaml.datasets import text_files
from tfrec_limaml.datasets.partitions import Values, partition_values
from tfrec_limaml.datasets.rows import Rows, check_names
from tfrec_limaml.datasets.text_format import TextFormat

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
#: Endings of compressed text files, and Arrow's names of their codecs.
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
#: Endings of the files that are read.
ENDINGS = (*TEXT_SUFFIXES, *(f".csv{codec}" for codec in CODECS), ".parquet")
_COMPRESSION = re.compile(r"\.(gz|zst|bz2)$")


def kind_of(path: str) -> str | None:
    """``"parquet"`` or ``"csv"`` by a file's name, in any case; None for other files.

    Sharded names (``x.csv-00000-of-00002``) and compressed text files (``x.csv.gz``, ``.zst``,
    ``.bz2``) are recognised too.
    """
    name = _plain_name(path)
    if name.endswith(".parquet"):
        return "parquet"
    return "csv" if _COMPRESSION.sub("", name).endswith(TEXT_SUFFIXES) else None


def decompressed(path: str, raw: Any) -> Any:
    """A binary file, decompressed according to its name."""
    match = _COMPRESSION.search(_plain_name(path))
    if match is None:
        return raw
    # Arrow's stream has no `readline`, and raises if the data are truncated.
    return io.BufferedReader(pa.CompressedInputStream(raw, CODECS[match.group()]), 1 << 20)


def _plain_name(path: str) -> str:
    return re.sub(r"-\d+-of-\d+", "", path.rsplit("/", 1)[-1].lower())


def read_file(
    path: str,
    open_file: Callable[[], Any],
    columns: Sequence[str] | None,
    batch_rows: int,
    text: TextFormat,
    group: int | None = None,
) -> Iterator[Rows]:
    """Rows of a Parquet or text file, with its partition columns.

    Args:
        path: Path of the file; its name determines the format.
        open_file: Opens the file, decompressed, at each call.
        columns: Columns to read, if present; all by default.
        batch_rows: Maximum number of rows per table.
        text: Format of text files.
        group: The row group of a Parquet file.

    Yields:
        At least one table, so that the columns are known.

    Raises:
        SchemaError: The header of a text file is missing or not UTF-8; two columns have the same
            name.
    """
    values = partition_values(path)
    if kind_of(path) == "csv":
        for rows in text_files.read_csv(open_file, columns, batch_rows, text, values.keys()):
            yield with_partitions(rows, values, columns)
        return
    with open_file() as handle:
        for rows in read_parquet(handle, columns, batch_rows, group, values.keys()):
            yield with_partitions(rows, values, columns)


def with_partitions(rows: Rows, values: Values, columns: Sequence[str] | None = None) -> Rows:
    """Rows with the partition columns that they lack, if wanted (all by default)."""
    table = rows.table
    for name, value in values.items():
        if name not in table.column_names and (columns is None or name in columns):
            column = pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
            table = table.append_column(name, column)
    return Rows(table, rows.bad, rows.unnamed)


def read_parquet(
    handle: BinaryIO,
    columns: Sequence[str] | None,
    batch_rows: int,
    group: int | None = None,
    elsewhere: Collection[str] = (),
) -> Iterator[Rows]:
    """Rows of a Parquet file, or of one of its row groups.

    Arguments as in `read_file`; `elsewhere` names columns that the file may lack.
    """
    file = pq.ParquetFile(handle)
    names = file.schema_arrow.names
    check_names(names)
    present = [name for name in names if columns is None or name in columns]
    empty = file.schema_arrow.empty_table()
    complete = columns is None or set(columns) <= {*names, *elsewhere}
    yield Rows(empty.select(present) if complete else empty)
    groups = range(file.num_row_groups) if group is None else [group]
    if not present:  # no column is wanted, but a table without columns has no rows
        present = names[:1]
    for batch in file.iter_batches(batch_size=batch_rows, columns=present, row_groups=groups):
        yield Rows(pa.Table.from_batches([batch]))
