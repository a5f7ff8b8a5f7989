"""Reads interactions and feature tables: Parquet, CSV and TFRecord files of `tf.train.Example`, on
any Beam filesystem.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from limaml_beam.io.read_errors import READ_ERRORS, SourceError, open_file, unreadable
from limaml_beam.io.tfrecords import read_records

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tfrecord": "tfrecord",
    ".tfrecord.gz": "tfrecord",
}
#: A file and, for one of several row groups of a Parquet file, its number.
Part = tuple[str, int | None]


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of one table.

    Attributes:
        name: What messages call it.
        files: Paths.
        size: Total bytes.
        updated: When the newest file was written, seconds since the epoch (0 where the filesystem
            does not say).
    """

    name: str
    files: tuple[str, ...]
    size: int
    updated: float

    @classmethod
    def match(cls, name: str, patterns: str | Sequence[str]) -> Source:
        """Expands file patterns; raises `SourceError` where nothing matches or an extension is
        unknown.
        """
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        try:
            matches = [
                found for result in FileSystems.match(wanted) for found in result.metadata_list
            ]
        except beam.io.filesystem.BeamIOError as error:
            raise SourceError(f"{name}: cannot list {wanted}: {error}") from error
        if not matches:
            raise SourceError(f"{name}: no file matches {wanted}")
        for match in matches:
            format_of(match.path)
        found = {m.path: m for m in matches}
        updated = max(m.last_updated_in_seconds for m in matches)
        return cls(
            name, tuple(sorted(found)), sum(m.size_in_bytes for m in found.values()), updated
        )


def format_of(path: str) -> str:
    """``"parquet"``, ``"csv"`` or ``"tfrecord"`` from a file name; sharded names
    (``x.tfrecord-00000-of-00002``) count too.
    """
    name = path.rsplit("/", 1)[-1].lower()
    for extension, kind in FORMATS.items():
        if name.endswith(extension) or f"{extension}-" in name:
            return kind
    raise SourceError(
        f"cannot tell the format of {path!r} from its name; expected one of {sorted(FORMATS)}"
    )


def parts_of(path: str) -> list[Part]:
    """What can be read of a file in parallel: the row groups of a Parquet file, other files as a
    whole.
    """
    if format_of(path) != "parquet":
        return [(path, None)]
    try:
        with open_file(path) as handle:
            return [(path, group) for group in range(pq.ParquetFile(handle).num_row_groups)]
    except READ_ERRORS as error:
        raise unreadable(path, 0, error) from error


def read_tables(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.Table]:
    """Yields tables of at most `batch_rows` rows with the named columns, raw.

    Raises:
        SourceError: The file cannot be read, is truncated, or lacks a column; the message names it.
    """
    readers = {"parquet": _read_parquet, "csv": _read_csv, "tfrecord": _read_tfrecord}
    path, rows = part[0], 0
    try:
        for table in readers[format_of(path)](part, columns, batch_rows):
            missing = sorted(set(columns) - set(table.column_names))
            if missing:
                raise SourceError(
                    f"{path} lacks the columns {missing}; it has {sorted(table.column_names)}"
                )
            rows += table.num_rows
            yield table.select(list(columns))
    except READ_ERRORS as error:
        raise unreadable(path, rows, error) from error


def check_columns(source: Source, columns: Sequence[str]) -> None:
    """Fails early, before any worker starts, where a source's first file lacks a column."""
    for _ in read_tables((source.files[0], None), columns, 1):
        return


def _read_parquet(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.Table]:
    path, group = part
    with open_file(path) as handle:
        file = pq.ParquetFile(handle)
        present = [name for name in columns if name in file.schema_arrow.names]
        if len(present) < len(set(columns)):
            yield pa.table({name: pa.array([], pa.null()) for name in file.schema_arrow.names})
        groups = range(file.num_row_groups) if group is None else [group]
        for batch in file.iter_batches(batch_size=batch_rows, columns=present, row_groups=groups):
            yield pa.Table.from_batches([batch])


def _read_csv(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.Table]:
    path, _ = part
    # All columns arrive as text: a type guessed from a file's first block would differ between
    # files.
    with open_file(path) as handle:
        with open_file(path) as first:
            header = _header(first.readline().decode("utf-8-sig").strip("\r\n"), path)
        present = (
            [name for name in columns if name in header] if set(columns) <= set(header) else header
        )
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=present,
            strings_can_be_null=True,
            null_values=["", "NULL", "null"],
        )
        reader = pyarrow.csv.open_csv(handle, convert_options=convert)
        for batch in reader:
            table = pa.Table.from_batches([batch])
            for start in range(0, table.num_rows, batch_rows):
                yield table.slice(start, batch_rows)


def _header(line: str, path: str) -> list[str]:
    if not line:
        raise SourceError(f"{path} is empty; a CSV file starts with a line of column names")
    return list(pyarrow.csv.read_csv(pa.BufferReader(f"{line}\n".encode())).column_names)


def _read_tfrecord(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.Table]:
    path, _ = part
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    batch: list[bytes] = []
    for record in read_records(path):
        batch.append(record)
        if len(batch) == batch_rows:
            yield _flat(decoder, batch, columns, path)
            batch = []
    if batch:
        yield _flat(decoder, batch, columns, path)


def _flat(decoder: object, records: list[bytes], columns: Sequence[str], path: str) -> pa.Table:
    """Scalars out of tf.Example's lists; vectors stay lists."""
    try:
        decoded = pa.Table.from_batches([decoder.DecodeBatch(records)])  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        raise SourceError(
            f"{path} holds a record that is not a tf.train.Example: {error}"
        ) from error
    out = {}
    for name in decoded.column_names:
        column = decoded[name].combine_chunks()
        # A column that is absent from this batch has no values at all.
        out[name] = (
            pa.nulls(len(column)) if pa.types.is_null(column.type) else _first_values(column)
        )
    return pa.table(out)


def _first_values(column: pa.Array) -> pa.Array:
    lengths = pa.compute.fill_null(pa.compute.list_value_length(column), 0)
    if pa.compute.max(lengths).as_py() not in (0, 1):
        return column
    filled = pa.compute.equal(lengths, 1)
    positions = pa.compute.if_else(
        filled, pa.compute.subtract(pa.compute.cumulative_sum(filled.cast(pa.int64())), 1), None
    )
    return column.flatten().take(positions)
