"""Blocks: Arrow tables of many rows, which are the elements of the pipelines.

One Beam element costs as much as the work on hundreds of rows. A *block* is a `pa.Table` of
validated rows: the schema's features under their own names, carried columns, and the reserved
columns below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema import arrow_keys

TIME = "__time"  # int64, milliseconds since the epoch
LABEL = "__label"  # float32
WEIGHT = "__weight"  # float32, if the schema names a weight column
# uint64, hash of the row's content: finds duplicates, and orders rows of the same time whatever
# their order of arrival
ORDER = "__order"
#: The split of a row, and the time up to which it sees history, if the schema splits within tasks.
SEGMENT, MOMENT = "__segment", "__moment"
#: The split times of a row's task, one per training episode, milliseconds.
EPISODES = "__episodes"
TASK = "__task"  # string, encoded task key
#: Where a row came from, to which a value goes back: its partition, and its number in the block.
PARTITION, ROW = "__partition", "__row"

#: Tables of at least this size are compressed when they are encoded.
_COMPRESSED_BYTES = 2**14


def other_key_column(definition: str) -> str:
    """Name of the block column that holds the encoded task key under another definition."""
    return f"{TASK}:{definition}"


def key_column(name: str) -> str:
    """Name of the block column that holds the key column `name` as text."""
    return f"__key:{name}"


class TableCoder(beam.coders.Coder):
    """Encodes tables as Arrow IPC with LZ4.

    Compression makes the runner's shuffle the bottleneck, not the size of the rows. Small tables
    are not compressed: that would take longer than all the rest.
    """

    def encode(self, value: pa.Table) -> bytes:
        """Serialises a table."""
        sink = pa.BufferOutputStream()
        compression = "lz4" if value.nbytes >= _COMPRESSED_BYTES else None
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, value.schema, options=options) as writer:
            writer.write_table(value.combine_chunks())
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.Table:
        """Inverse of `encode`."""
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_all()

    def estimate_size(self, value: pa.Table) -> int:
        """Bytes in memory; runners ask for sizes, and need not encode a table to measure it."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Tables are never keys."""
        return False

    def to_type_hint(self) -> type:
        """The type this coder is registered for."""
        return pa.Table


beam.coders.registry.register_coder(pa.Table, TableCoder)


def to_numpy(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A column without nulls as a NumPy array."""
    return (
        column.to_numpy()
        if isinstance(column, pa.ChunkedArray)
        else column.to_numpy(zero_copy_only=False)
    )


def codes_of(column: pa.ChunkedArray | pa.Array) -> tuple[Integers, pa.Array]:
    """Dictionary codes ``[n]`` and the distinct values of a column."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = array.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def stable_hash(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash per value, the same in every process and on every machine."""
    if pa.types.is_fixed_size_list(column.type):
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        width = column.type.list_size
        flat = pd.util.hash_array(array.flatten().to_numpy(zero_copy_only=False))
        return mix_hashes(list(flat.reshape(-1, width).T))
    if pa.types.is_string(column.type) or _few_distinct(column):
        codes, values = codes_of(column)
        distinct = values.to_numpy(zero_copy_only=False)
        if pa.types.is_string(values.type):
            distinct = distinct.astype(object)
        hashed = pd.util.hash_array(distinct, categorize=False)
        return hashed[codes] if len(values) else np.zeros(0, np.uint64)
    return pd.util.hash_array(to_numpy(column))


def _few_distinct(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a column is a dictionary column with no more distinct values than rows."""
    if not pa.types.is_dictionary(column.type) or column.null_count:
        return False
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(len(chunk.dictionary) for chunk in chunks) <= len(column)


def mix_hashes(hashes: Sequence[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """One order-dependent hash per row from one hash per row and column."""
    mixed = np.full(len(hashes[0]), 0x9E3779B97F4A7C15, np.uint64)
    for hashed in hashes:
        mixed = (mixed ^ hashed) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def join_keys(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """`tfrec_limaml.schema.task_keys.task_key` of the key columns, for every row."""
    return arrow_keys.join_keys([table[key_column(name)] for name in columns])


def partition(
    table: pa.Table, hashes: npt.NDArray[np.uint64], partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Splits a table by ``hash mod partitions``; yields only the parts that hold rows."""
    if table.num_rows == 0:
        return
    target = (hashes % np.uint64(partitions)).astype(np.int64)
    order = np.argsort(target, kind="stable")
    bounds = np.searchsorted(target[order], np.arange(partitions + 1))
    sorted_rows = table.take(pa.array(order))
    for index in range(partitions):
        start, stop = int(bounds[index]), int(bounds[index + 1])
        if stop > start:
            yield index, sorted_rows.slice(start, stop - start)


def sum_counts(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Adds counts by name."""
    total: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return total
