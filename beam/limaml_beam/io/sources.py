"""Reads interactions and feature tables on any Beam filesystem.

Formats: Parquet, CSV, TSV, and TFRecord files of `tf.train.Example`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limaml_beam.io import files
from limaml_beam.io.read_errors import (
    READ_ERRORS,
    MissingColumnsError,
    SourceError,
    open_file,
    unreadable,
)
from limaml_beam.io.tfrecords import read_records
from limaml_beam.io.tfx_bsl_internals import example_decoder
from tfrec_limaml.datasets import partitions, table_files
from tfrec_limaml.datasets.rows import Rows
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.column_times import PLAUSIBLE
from tfrec_limaml.wording import counted, utc_text

#: A file and, for one of several row groups of a Parquet file, its number.
Part = tuple[str, int | None]


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of one table.

    Attributes:
        name: Name of the source in messages.
        files: Paths.
        size: Total bytes.
        updated: When the newest file was written, seconds since the epoch (0 if the filesystem
            does not say).
        empty: Paths of empty files, which are not read.
        markers: Paths of files without data, such as ``_SUCCESS``; see `partitions.is_marker`.
        outside: Paths of files whose partition is outside the dates; they are not opened.
        text: The format of text files.
    """

    name: str
    files: tuple[str, ...]
    size: int
    updated: float
    empty: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    text: TextFormat = dataclasses.field(default_factory=TextFormat)

    @classmethod
    def match(
        cls,
        name: str,
        patterns: str | Sequence[str],
        text: TextFormat | None = None,
        dates: tuple[int, int] | None = None,
    ) -> Source:
        """Expands file patterns and folders. A path that is itself a file is not a pattern.

        Args:
            name: Name of the source in messages.
            patterns: Files, or folders, whose files are read at any depth.
            text: The format of text files.
            dates: ``[first, end)``, milliseconds. Files are left out if, according to their
                partitions, all of their rows are outside of it.

        Raises:
            SourceError: Nothing matches, or the format of a file is unknown.
        """
        pattern_list = [patterns] if isinstance(patterns, str) else list(patterns)
        matches, markers = _matches(name, pattern_list)
        data = matches.keys() - markers
        outside = {path for path in data if dates and partitions.is_outside(path, *dates)}
        empty = {path for path in data - outside if not matches[path].size_in_bytes}
        usable = sorted(data - outside - empty)
        if not usable:
            condition = f" with data (empty: {sorted(empty)})" if empty else ""
            reason = ""
            if dates and outside:
                condition += " in the dates"
                reason = _outside_text(len(outside), dates, bool(empty))
            raise SourceError(f"{name}: no file{condition} matches {pattern_list}{reason}")
        for path in usable:
            format_of(path)
        return cls(
            name,
            tuple(usable),
            sum(matches[path].size_in_bytes for path in usable),
            max(matches[path].last_updated_in_seconds for path in usable),
            tuple(sorted(empty)),
            tuple(sorted(markers)),
            tuple(sorted(outside)),
            text or TextFormat(),
        )


def _matches(name: str, patterns: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """The files that match patterns, by path, and those of them without data."""
    matches: dict[str, Any] = {}
    markers: set[str] = set()
    try:
        for pattern in patterns:
            for path, match in files.match_tables(pattern).items():
                matches[path] = match
                if partitions.is_marker(files.relative_to_pattern(path, pattern)):
                    markers.add(path)
    except LimamlError as error:
        raise SourceError(f"{name}: {error}") from error
    return matches, markers


def _outside_text(number: int, dates: tuple[int, int], others: bool) -> str:
    """Says that files are partitions of days outside the dates; `others`: there are other files."""
    if number == 1 and not others:
        files_are = "the only file is a partition"
    else:
        files_are = counted(number, "file is a partition", "files are partitions")
    every = "" if others or number == 1 else "all "
    first, end = map(_date_text, dates)
    days = f"days outside {first} to {end}" if first and end else f"days before {first}"
    return f": {every}{files_are} of {days if first else f'{end} or later'}"


def _date_text(time: int) -> str:
    """A time in milliseconds as text, midnight (UTC) as its date; "" for one without a limit."""
    if not PLAUSIBLE[0] <= time <= PLAUSIBLE[1]:
        return ""
    return utc_text(time).removesuffix("+00:00").removesuffix("T00:00:00")


def format_of(path: str) -> str:
    """``"parquet"``, ``"csv"`` or ``"tfrecord"``; raises `SourceError` for other file names.

    Upper and lower case are equal, and sharded names (``x.tfrecord-00000-of-00002``) count too.
    """
    name = path.rsplit("/", 1)[-1].lower()
    kind = "tfrecord" if ".tfrecord" in name else table_files.kind_of(path)
    if kind is None:
        raise SourceError(
            f"cannot tell the format of {path!r} from its name; expected one of "
            f"{[*table_files.ENDINGS, '.tfrecord']}"
        )
    return kind


def parts_of_file(path: str) -> list[Part]:
    """The parts of a file that are read in parallel: row groups of Parquet, else the whole file."""
    if format_of(path) != "parquet":
        return [(path, None)]
    try:
        with open_file(path) as handle:
            return [(path, group) for group in range(pq.ParquetFile(handle).num_row_groups)]
    except READ_ERRORS as error:
        raise unreadable(path, 0, error) from error


def read_part(
    part: Part,
    columns: Sequence[str],
    batch_rows: int,
    text: TextFormat | None = None,
    carry: Sequence[str] = (),
    optional: Collection[str] = (),
) -> Iterator[Rows]:
    """Yields the raw values of the columns, at most `batch_rows` rows at a time.

    Lines that are not table rows are reported beside them. `text` is the format of text files,
    `carry` the schema's passthrough columns, for errors: the schema need not list them. A file may
    lack the `optional` columns: their values are then null.

    Raises:
        SourceError: The file cannot be read, is truncated, or lacks a column; the message names it.
    """
    (path, group), count = part, 0
    try:
        if format_of(path) == "tfrecord":
            chunks = _read_tfrecord(path, batch_rows)
        else:
            open_path = functools.partial(open_file, path)
            chunks = table_files.read_file(
                path, open_path, columns, batch_rows, text or TextFormat(), group
            )
        for rows in chunks:
            rows = _with_nulls(rows, [name for name in columns if name in optional])
            missing = sorted(set(columns) - set(rows.table.column_names))
            if missing:
                raise MissingColumnsError(
                    f"{path} lacks the columns {missing}{_carried_text(missing, carry)}; it has "
                    f"{sorted(rows.table.column_names)}"
                )
            count += rows.count
            yield Rows(rows.table.select(list(dict.fromkeys(columns))), rows.bad)
    except SourceError:
        raise
    except LimamlError as error:
        raise SourceError(f"cannot read {path}: {error}") from error
    except READ_ERRORS as error:
        raise unreadable(path, count, error) from error


def _with_nulls(rows: Rows, columns: Sequence[str]) -> Rows:
    """The rows with those of some columns that they lack, without values."""
    table = rows.table
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return Rows(table, rows.bad)


def _carried_text(missing: Sequence[str], carry: Sequence[str]) -> str:
    """Says which of the missing columns the schema need not list; "" if there are none."""
    carried = [name for name in missing if name in carry]
    if not carried:
        return ""
    which = "" if carried == list(missing) else f"{carried} "
    it = "it" if len(carried) == 1 else "them"
    return (
        f" ({which}listed under `carry` in the schema; remove {it} there if you do not need {it})"
    )


def read_tables(
    part: Part, columns: Sequence[str], batch_rows: int, text: TextFormat | None = None
) -> Iterator[pa.Table]:
    """As `read_part`, for files in which every line must be a table row.

    Raises:
        SourceError: As `read_part`; or a line is not a table row.
    """
    for rows in read_part(part, columns, batch_rows, text):
        for bad in rows.bad:
            raise SourceError(f"{part[0]}, line {bad.line}: {bad.reason}: {bad.text[:200]!r}")
        yield rows.table


def column_types(
    source: Source, columns: Sequence[str], carry: Sequence[str]
) -> dict[str, pa.DataType]:
    """Types of a source's columns in its first file, which is opened before any worker starts.

    `carry` is that of `read_part`.

    Raises:
        SourceError: The file cannot be read, or lacks a column.
    """
    rows = next(read_part((source.files[0], None), columns, 1, source.text, carry), None)
    return {} if rows is None else {field.name: field.type for field in rows.table.schema}


def _read_tfrecord(path: str, batch_rows: int) -> Iterator[Rows]:
    decode = example_decoder()
    values = partitions.partition_values(path)
    batch: list[bytes] = []
    for record in read_records(path):
        batch.append(record)
        if len(batch) == batch_rows:
            yield table_files.with_partitions(Rows(_flat(decode, batch, path)), values)
            batch = []
    if batch:
        yield table_files.with_partitions(Rows(_flat(decode, batch, path)), values)


def _flat(decode: Callable[[list[bytes]], Any], records: list[bytes], path: str) -> pa.Table:
    """Scalars out of tf.Example's lists; vectors stay lists."""
    try:
        table = pa.Table.from_batches([decode(records)])
    except (RuntimeError, ValueError) as error:
        raise SourceError(
            f"{path} holds a record that is not a tf.train.Example: {error}"
        ) from error
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        # A column that is absent from this batch has no values at all.
        columns[name] = (
            pa.nulls(len(column)) if pa.types.is_null(column.type) else _first_values(column)
        )
    return pa.table(columns)


def _first_values(column: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    if pc.max(lengths).as_py() not in (0, 1):
        return column
    filled = pc.equal(lengths, 1)
    positions = pc.if_else(filled, pc.subtract(pc.cumulative_sum(filled.cast(pa.int64())), 1), None)
    return column.flatten().take(positions)
