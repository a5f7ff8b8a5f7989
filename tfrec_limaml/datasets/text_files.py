"""Reads the rows of text files as Arrow tables.

All columns are text, since the schema determines their types, and ``007`` must not become 7.
Malformed rows (another number of fields than the header, or bytes that are not UTF-8) are returned
separately, with their lines.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tfrec_limaml.datasets import quotes
from tfrec_limaml.datasets.rows import FIELDS, NOT_UTF8, BadRow, Rows, check_names
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import SchemaError

SEPARATORS = (",", "\t", ";")

#: Marks a byte that is not UTF-8: a character that may not occur in texts.
_MARK = "\ufdd0"
_BLOCK_BYTES = 1 << 22  # a row must fit into one block
_HEADER_BYTES = 1 << 20
#: First bytes of compressed files, and the ending of such a file's name.
_PACKED = {b"\x1f\x8b": ".csv.gz", b"\x28\xb5\x2f\xfd": ".csv.zst", b"BZh9": ".csv.bz2"}


def read_csv(
    open_file: Callable[[], Any],
    columns: Sequence[str] | None,
    batch_rows: int,
    text: TextFormat,
    elsewhere: Collection[str] = (),
) -> Iterator[Rows]:
    """Rows of a text file: every column a string.

    Args:
        open_file: Opens the file at each call.
        columns: Columns to read, if present; all by default.
        batch_rows: Maximum number of rows per table.
        text: Format of the file.
        elsewhere: Columns that the file may lack.

    Yields:
        At least one table, so that the columns are known.

    Raises:
        SchemaError: The header is missing, is not UTF-8, or names a column twice; the file is
            compressed, but its name does not say so; a quotation mark is not closed.
    """
    with open_file() as first:
        line, ending, remainder = first.readline(_HEADER_BYTES).partition(b"\r")
        header, separator = _header(line, text.delimiter)
        has_rows = bool(remainder.strip() if ending else b"") or bool(first.read(1))
    present = [name for name in header if name and (columns is None or name in columns)]
    if columns is not None and not set(columns) <= {*header, *elsewhere}:
        present = [name for name in header if name]
    empty = pa.table({name: pa.array([], pa.string()) for name in present})
    yield Rows(empty, unnamed=header.count(""))
    if not has_rows:
        return
    if not present:  # no column is wanted, but a table without columns has no rows
        present = [name for name in header if name][:1]
    collector = _BadRows()
    with open_file() as handle:
        content = _Utf8(handle)
        for batch in _batches(content, header, present, separator, text, collector):
            table, bad_rows = collector.split(pa.Table.from_batches([batch]))
            yield Rows(table.slice(0, batch_rows), bad_rows)
            for start in range(batch_rows, table.num_rows, batch_rows):
                yield Rows(table.slice(start, batch_rows))
    if text.quotes and content.line_breaks - collector.count >= quotes.SWALLOWED:
        _check_quotes(open_file, len(header), separator, text)
    if last_bad_rows := collector.take():
        yield Rows(pa.table({name: pa.array([], pa.string()) for name in present}), last_bad_rows)


def _check_quotes(
    open_file: Callable[[], Any], columns: int, separator: str, text: TextFormat
) -> None:
    """Reads a file once more, with all columns, and raises `SchemaError` if a cell holds rows."""
    names, collector = [str(number) for number in range(columns)], _BadRows()
    with open_file() as handle:
        for batch in _batches(_Utf8(handle), names, names, separator, text, collector):
            quotes.check_cells(batch, separator)
    for row in collector.take():
        quotes.check_text(row.text, columns, separator)


def _batches(
    handle: Any,
    header: list[str],
    present: list[str],
    separator: str,
    text: TextFormat,
    collector: _BadRows,
) -> Iterator[pa.RecordBatch]:
    reader = pyarrow.csv.open_csv(
        handle,
        # One thread: otherwise Arrow does not number rows.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, column_names=header, skip_rows=1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator,
            quote_char='"' if text.quotes else False,
            newlines_in_values=text.quotes,
            invalid_row_handler=collector.add,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=present,
            strings_can_be_null=True,
            null_values=["", *text.null_words],
        ),
    )
    yield from reader


def _replace_with_marks(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: a mark and two hexadecimal digits for each byte that is not UTF-8."""
    assert isinstance(error, UnicodeDecodeError)
    invalid_bytes = error.object[error.start : error.end]
    return "".join(f"{_MARK}{byte:02x}" for byte in invalid_bytes), error.end


codecs.register_error("limaml-marked", _replace_with_marks)


class _Utf8:
    """A binary file for Arrow, with marks in place of bytes that are not UTF-8.

    Arrow would stop at the first such byte. The marks identify the rows.

    Attributes:
        line_breaks: Number of line breaks read so far.
        closed: Whether Arrow has closed the file.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8")("limaml-marked")
        self._ready, self._ended = b"", False
        self.line_breaks, self.closed = 0, False

    def read(self, size: int) -> bytes:
        """The next `size` bytes, since Arrow needs whole blocks; fewer at the end."""
        while len(self._ready) < size and not self._ended:
            chunk = self._handle.read(size)
            self._ended = not chunk
            self.line_breaks += chunk.count(b"\n")
            self._ready += self._decoder.decode(chunk, final=self._ended).encode()
        content, self._ready = self._ready[:size], self._ready[size:]
        return content

    def close(self) -> None:
        """Does nothing: the file belongs to the caller."""
        self.closed = True


class _BadRows:
    """Collects malformed rows while a file is read, and computes the lines of the others."""

    def __init__(self) -> None:
        self._skipped: list[int] = []
        self._waiting: list[BadRow] = []
        self._good_count = 0

    @property
    def count(self) -> int:
        """Number of rows so far, malformed ones included."""
        return self._good_count + len(self._skipped)

    def add(self, row: Any) -> str:
        """Arrow's handler of rows with another number of fields."""
        self._skipped.append(row.number)
        self._waiting.append(BadRow(row.number, FIELDS, _with_escapes(row.text)))
        return "skip"

    def take(self) -> tuple[BadRow, ...]:
        """The malformed rows since the last call."""
        rows, self._waiting = tuple(self._waiting), []
        return rows

    def split(self, table: pa.Table) -> tuple[pa.Table, tuple[BadRow, ...]]:
        """The rows of the next batch that are UTF-8, and the malformed rows so far."""
        invalid = np.zeros(table.num_rows, bool)
        for column in table.columns:
            has_mark = pc.fill_null(pc.match_substring(column, _MARK), False)
            invalid |= np.asarray(has_mark)
        if invalid.any():
            lines = self._lines(np.flatnonzero(invalid))
            rows = table.filter(pa.array(invalid)).to_pylist()
            for line, row in zip(lines, rows, strict=True):
                cells = {name: _with_escapes(cell) if cell else cell for name, cell in row.items()}
                self._waiting.append(BadRow(int(line), NOT_UTF8, _as_text(cells)))
        self._good_count += table.num_rows
        return table.filter(pa.array(~invalid)) if invalid.any() else table, self.take()

    def _lines(self, positions: Any) -> Any:
        """Line numbers of rows of the current batch; each skipped row before a row adds one."""
        skipped = np.array(self._skipped, np.int64)
        good_rows_before = skipped - np.arange(len(skipped)) - 2
        rows = positions + self._good_count
        return rows + 2 + np.searchsorted(good_rows_before, rows, side="right")


def _as_text(cells: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}: {'' if cell is None else cell}" for name, cell in cells.items())


def _with_escapes(text: str) -> str:
    """Text with readable escapes for its marked bytes."""
    return text.replace(_MARK, "\\x")


def _header(line: bytes, delimiter: str | None) -> tuple[list[str], str]:
    """Column names, stripped, and the separator.

    The separator is the given one, or else the most frequent candidate outside quotes.
    """
    _check_packed(line)
    try:
        text = line.decode("utf-8-sig").strip("\n")
    except UnicodeDecodeError as error:
        raise SchemaError(f"line 1 is not UTF-8 ({error}); save the file as UTF-8") from error
    if not text.strip():
        raise SchemaError("line 1 is empty; a text file starts with a line of column names")
    unquoted = re.sub(r'"[^"]*"', "", text)
    separator = delimiter or max(SEPARATORS, key=unquoted.count)
    try:
        options = pyarrow.csv.ParseOptions(delimiter=separator)
        cells = pyarrow.csv.read_csv(
            pa.BufferReader(f"{text}\n".encode()), parse_options=options
        ).column_names
    except pa.ArrowInvalid as error:
        raise SchemaError(f"line 1 holds no column names: {error}") from error
    names = [cell.strip() for cell in cells]
    check_names([name for name in names if name])
    return names, separator


def _check_packed(line: bytes) -> None:
    """Raises `SchemaError` for a compressed file whose name does not say so."""
    for start, ending in _PACKED.items():
        if line.startswith(start):
            raise SchemaError(
                f"the file is compressed, but its name does not say so: let its name end in "
                f"{ending}, or unpack it"
            )
