"""Arrow tables that the embedding job writes: embeddings, and dead letters.

The embeddings' schema loads as it is into BigQuery (``list<float>`` becomes ``REPEATED FLOAT``) and
into a Feast file source (``event_timestamp`` is the time of the member's last interaction, UTC).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml_beam.generate_embeddings.digests import Digests, DigestSet, as_array
from limaml_beam.io import files
from tfrec_limaml.errors import LimamlError

EMBEDDINGS_SCHEMA = pa.schema(
    [
        pa.field("task_key", pa.string(), nullable=False),
        pa.field("task_definition", pa.string(), nullable=False),
        pa.field(
            "embedding", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False
        ),
        pa.field("event_timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("sample_count", pa.int64(), nullable=False),
        pa.field("loss_before", pa.float32()),
        pa.field("loss_after", pa.float32()),
        pa.field("model_version", pa.int64(), nullable=False),
        pa.field("generation", pa.string(), nullable=False),
        pa.field("record_digest", pa.binary(), nullable=False),
    ]
)
#: The column of posterior variances (`with_variance`).
VARIANCE_FIELD = pa.field("variance", EMBEDDINGS_SCHEMA.field("embedding").type, nullable=False)


def embeddings_schema(with_variance: bool) -> pa.Schema:
    """Columns of the embeddings' table, with or without posterior variances."""
    return EMBEDDINGS_SCHEMA.append(VARIANCE_FIELD) if with_variance else EMBEDDINGS_SCHEMA


DEAD_LETTERS_SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("record", pa.binary()),
    ]
)

#: Reasons in dead letters.
UNDECODABLE = "undecodable"
NOT_FINITE = "not_finite"
UNSTORABLE_KEY = "unstorable_key"
UNREADABLE_FILE = "unreadable_file"

EMBEDDINGS_PREFIX = "embeddings"
#: The folder of refused records in an output, and their place in the report.
DEAD_LETTERS = "dead_letters"


def embeddings_table(
    *,
    keys: Sequence[str],
    definitions: Sequence[str],
    embeddings: npt.NDArray[np.float32],
    timestamps: npt.NDArray[np.int64],
    sample_counts: npt.NDArray[np.int64],
    losses: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None,
    digests: Sequence[bytes],
    model_version: int,
    generation: str,
    variances: npt.NDArray[np.float32] | None = None,
) -> pa.Table:
    """One table of embeddings ``[n, D]``.

    `losses` is None for nested tasks, which have none; `variances` ``[n, D]`` is None for tables
    without variances.
    """
    count = len(embeddings)
    columns = [
        pa.array(keys, pa.string()),
        pa.array(definitions, pa.string()),
        _lists(embeddings),
        pa.array(timestamps, pa.timestamp("ms", tz="UTC")),
        pa.array(sample_counts, pa.int64()),
        *(
            pa.nulls(count, pa.float32()) if losses is None else pa.array(losses[i], pa.float32())
            for i in range(2)
        ),
        pa.array(np.full(count, model_version), pa.int64()),
        pa.repeat(pa.scalar(generation), count),
        pa.array(digests, pa.binary()),
        *([] if variances is None else [_lists(variances)]),
    ]
    return pa.Table.from_arrays(columns, schema=embeddings_schema(variances is not None))


def _lists(matrix: npt.NDArray[np.float32]) -> pa.ListArray:
    """A column with one row of the matrix ``[n, D]`` in each cell."""
    count, dim = matrix.shape
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, (count + 1) * dim, dim, dtype=np.int32)),
        pa.array(np.ascontiguousarray(matrix).ravel(), pa.float32()),
        type=EMBEDDINGS_SCHEMA.field("embedding").type,
    )


def dead_letter_table(
    reasons: Sequence[str], details: Sequence[str], records: Sequence[bytes | None]
) -> pa.Table:
    """One table of dead letters; `records` holds the bytes if there are any."""
    return pa.Table.from_arrays(
        [pa.array(reasons), pa.array(details), pa.array(records, pa.binary())],
        schema=DEAD_LETTERS_SCHEMA,
    )


def embedding_matrix(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """An ``embedding`` column as ``[n, D]``; raises `ValueError` if the widths differ."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(column) == 0:
        return np.zeros((0, 0), np.float32)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    widths = np.diff(column.offsets.to_numpy())
    if (widths != widths[0]).any():
        raise ValueError(f"embeddings of widths {sorted(set(widths.tolist()))} in one column")
    return np.asarray(flat, np.float32).reshape(len(column), int(widths[0]))


def embedding_files(folder: str) -> list[str]:
    """Parquet files of embeddings in an output folder of the job, sorted."""
    return files.matching(folder, f"{EMBEDDINGS_PREFIX}-*.parquet")


def row_count(path: str) -> int:
    """Rows of one Parquet file, from its footer."""
    with _open_parquet(path) as parquet:
        return int(parquet.metadata.num_rows)


def read_batches(
    paths: Sequence[str], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Record batches of some columns (all of them without `columns`) of several Parquet files.

    Raises:
        LimamlError: A file cannot be read, or is not a Parquet file; the message names it.
    """
    for path in paths:
        with _open_parquet(path) as parquet:
            yield from parquet.iter_batches(columns=None if columns is None else list(columns))


def load_digests(paths: Sequence[str]) -> DigestSet:
    """Digests of all records behind the rows of some Parquet files."""
    return DigestSet(
        digest_column(batch).tobytes() for batch in read_batches(paths, ["record_digest"])
    )


def digest_column(batch: pa.RecordBatch) -> Digests:
    """The digests of a batch's rows ``[n]``."""
    return as_array(b"".join(batch["record_digest"].to_pylist()))


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with files.open_binary(path) as file, pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise LimamlError(f"cannot read {path}: {error}") from error
