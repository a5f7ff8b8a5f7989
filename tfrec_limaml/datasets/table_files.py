"""Reads the rows of Parquet and CSV files, as Arrow tables: the one reader of ``limaml datasets``
and ``limaml prepare``.

Columns of a text file stay text: what they are is for the schema to say, and ``007`` must not
become 7 on the way. A row that cannot be a row (another number of fields than the header has, or
bytes that are not UTF-8) comes out apart, with its line.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from tfrec_limaml.errors import SchemaError

#: What stands for no value in a text file.
NULL_WORDS = ("", "NULL", "null")
SEPARATORS = (",", "\t", ";")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
#: Reasons of `BadRow`.
FIELDS, NOT_UTF8 = "number_of_fields", "not_utf8"

#: Stands before the digits of a byte that is not UTF-8: a character that no text may hold.
_MARK = "\ufdd0"
_BLOCK_BYTES = 1 << 22  # a row must fit into one
_HEADER_BYTES = 1 << 20


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


def kind_of(path: str) -> str | None:
    """``"parquet"`` or ``"csv"`` by a file's name, whatever its case; None for another.

    Sharded names (``x.csv-00000-of-00002``) and gzip text files (``x.csv.gz``) count too.
    """
    name = re.sub(r"-\d+-of-\d+", "", path.rsplit("/", 1)[-1].lower())
    if name.endswith(".parquet"):
        return "parquet"
    return "csv" if name.removesuffix(".gz").endswith(TEXT_SUFFIXES) else None


def read_parquet(
    handle: BinaryIO,
    columns: Sequence[str] | None,
    batch_rows: int,
    group: int | None = None,
) -> Iterator[Rows]:
    """Rows of a Parquet file, or of one of its row groups.

    Args:
        handle: The file.
        columns: Which to read, as far as they are there; all of them by default.
        batch_rows: Rows per table at most.
        group: The row group.

    Yields:
        At least one table, which shows what columns there are.
    """
    file = pq.ParquetFile(handle)
    names = file.schema_arrow.names
    _check_names(names)
    present = [name for name in names if columns is None or name in columns]
    empty = file.schema_arrow.empty_table()
    complete = columns is None or set(columns) <= set(names)
    yield Rows(empty.select(present) if complete else empty)
    groups = range(file.num_row_groups) if group is None else [group]
    for batch in file.iter_batches(batch_size=batch_rows, columns=present, row_groups=groups):
        yield Rows(pa.Table.from_batches([batch]))


def read_csv(
    open_file: Callable[[], Any], columns: Sequence[str] | None, batch_rows: int
) -> Iterator[Rows]:
    """Rows of a text file: every column a string, its separator found in the header.

    Args:
        open_file: Opens it, as often as it is called.
        columns: Which to read, as far as they are there; all of them by default.
        batch_rows: Rows per table at most.

    Yields:
        At least one table, which shows what columns there are.

    Raises:
        SchemaError: The header is missing, is not UTF-8, or names a column twice.
    """
    with open_file() as first:
        line, ending, more = first.readline(_HEADER_BYTES).partition(b"\r")
        header, separator = _header(line)
        has_rows = bool(more.strip() if ending else b"") or bool(first.read(1))
    present = [name for name in header if name and (columns is None or name in columns)]
    if columns is not None and not set(columns) <= set(header):
        present = [name for name in header if name]
    yield Rows(pa.table({name: pa.array([], pa.string()) for name in present}))
    if not has_rows:
        return
    collector = _BadRows()
    with open_file() as handle:
        for batch in _batches(_Utf8(handle), header, present, separator, collector):
            table, bad = collector.split(pa.Table.from_batches([batch]))
            yield Rows(table.slice(0, batch_rows), bad)
            for start in range(batch_rows, table.num_rows, batch_rows):
                yield Rows(table.slice(start, batch_rows))
    if rest := collector.take():
        yield Rows(pa.table({name: pa.array([], pa.string()) for name in present}), rest)


def _batches(
    handle: Any, header: list[str], present: list[str], separator: str, collector: _BadRows
) -> Iterator[pa.RecordBatch]:
    reader = pyarrow.csv.open_csv(
        handle,
        # One thread: rows have numbers only then.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, column_names=header, skip_rows=1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator, newlines_in_values=True, invalid_row_handler=collector.add
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=present,
            strings_can_be_null=True,
            null_values=list(NULL_WORDS),
        ),
    )
    yield from reader


def _marked(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: a mark and two hexadecimal digits for each byte that is not UTF-8."""
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    return "".join(f"{_MARK}{byte:02x}" for byte in wrong), error.end


codecs.register_error("limaml-marked", _marked)


class _Utf8:
    """A binary file for Arrow that is valid UTF-8 whatever lies in it, as Arrow stops at the first
    byte that is not; such bytes are marked, and their rows are found again by the mark.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8")("limaml-marked")
        self._ready, self._ended = b"", False
        self.closed = False

    def read(self, size: int) -> bytes:
        """The next `size` bytes, as Arrow wants whole blocks; fewer at the end."""
        while len(self._ready) < size and not self._ended:
            chunk = self._handle.read(size)
            self._ended = not chunk
            self._ready += self._decoder.decode(chunk, final=self._ended).encode()
        out, self._ready = self._ready[:size], self._ready[size:]
        return out

    def close(self) -> None:
        """Leaves the file to whoever opened it."""
        self.closed = True


class _BadRows:
    """Gathers bad rows while a file is read, and knows the lines of the good ones."""

    def __init__(self) -> None:
        self._skipped: list[int] = []
        self._waiting: list[BadRow] = []
        self._good = 0

    def add(self, row: Any) -> str:
        """Arrow's handler of rows with another number of fields."""
        self._skipped.append(row.number)
        self._waiting.append(BadRow(row.number, FIELDS, _shown(row.text)))
        return "skip"

    def take(self) -> tuple[BadRow, ...]:
        """What came since the last call."""
        taken, self._waiting = tuple(self._waiting), []
        return taken

    def split(self, table: pa.Table) -> tuple[pa.Table, tuple[BadRow, ...]]:
        """The rows of the next batch that are UTF-8, and the bad rows so far."""
        wrong = np.zeros(table.num_rows, bool)
        for column in table.columns:
            marked = pc.fill_null(pc.match_substring(column, _MARK), False)
            wrong |= np.asarray(marked)
        if wrong.any():
            lines = self._lines(np.flatnonzero(wrong))
            rows = table.filter(pa.array(wrong)).to_pylist()
            for line, row in zip(lines, rows, strict=True):
                cells = {name: _shown(cell) if cell else cell for name, cell in row.items()}
                self._waiting.append(BadRow(int(line), NOT_UTF8, str(cells)))
        self._good += table.num_rows
        return table.filter(pa.array(~wrong)) if wrong.any() else table, self.take()

    def _lines(self, places: Any) -> Any:
        """Lines of rows of the present batch: every skipped row before one moves it down."""
        skipped = np.array(self._skipped, np.int64)
        before = skipped - np.arange(len(skipped)) - 2
        rows = places + self._good
        return rows + 2 + np.searchsorted(before, rows, side="right")


def _shown(text: str) -> str:
    """Text with its marked bytes as people write them."""
    return text.replace(_MARK, "\\x")


def _header(line: bytes) -> tuple[list[str], str]:
    """Column names and the separator, which is the most frequent one outside of quotes."""
    try:
        text = line.decode("utf-8-sig").strip("\n")
    except UnicodeDecodeError as error:
        raise SchemaError(f"line 1 is not UTF-8 ({error}); save the file as UTF-8") from error
    if not text.strip():
        raise SchemaError("line 1 is empty; a text file starts with a line of column names")
    outside = re.sub(r'"[^"]*"', "", text)
    separator = max(SEPARATORS, key=outside.count)
    try:
        options = pyarrow.csv.ParseOptions(delimiter=separator)
        names = pyarrow.csv.read_csv(
            pa.BufferReader(f"{text}\n".encode()), parse_options=options
        ).column_names
    except pa.ArrowInvalid as error:
        raise SchemaError(f"line 1 holds no column names: {error}") from error
    _check_names([name for name in names if name])
    return list(names), separator


def _check_names(names: Sequence[str]) -> None:
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise SchemaError(f"columns of the same name: {double}; rename or drop one of each")
