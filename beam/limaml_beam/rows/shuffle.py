"""Packs blocks for a shuffle, as bytes or as positions in files outside the runner's memory.

Beam's in-process runner holds every shuffle in memory and decodes and encodes each element twice on
its way. Packed blocks cost it only their size; with a scratch folder it holds only the position of
each block in a file.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.rows.columnar import TableCoder, partition

_POSITION_MARK = b"@"  # an Arrow stream begins with ff ff ff ff


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Packs tables before a shuffle and unpacks them after it.

    Attributes:
        scratch: For a run on one machine: a folder that all workers share; packed tables are
            positions in its files. None for engines that keep shuffles on their own disks: packed
            tables hold the rows.
    """

    scratch: str | None = None

    def pack(self, table: pa.Table) -> bytes:
        """A table as bytes."""
        encoded = TableCoder().encode(table)
        if self.scratch is None:
            return encoded
        # One file per thread of a worker, so that no other thread writes to it.
        name = f"{os.getpid()}-{threading.get_ident()}"
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        with Path(self.scratch, name).open("ab") as file:
            start = file.tell()
            file.write(encoded)
        return b"%b%d:%d:%b" % (_POSITION_MARK, start, len(encoded), name.encode())

    def split(
        self, table: pa.Table, hashes: npt.NDArray[np.uint64], partitions: int
    ) -> Iterator[tuple[int, bytes]]:
        """The packed parts of a table; see `columnar.partition`."""
        for index, part in partition(table, hashes, partitions):
            yield index, self.pack(part)

    def unpack(self, packed: bytes) -> pa.Table:
        """The table that `pack` was given."""
        if not packed.startswith(_POSITION_MARK):
            return TableCoder().decode(packed)
        start, size, name = packed[1:].decode().split(":")
        with Path(str(self.scratch), name).open("rb") as file:
            file.seek(int(start))
            return TableCoder().decode(file.read(int(size)))

    def unpack_all(self, packed: Iterable[bytes]) -> pa.Table:
        """The rows of several packed tables as one table."""
        return pa.concat_tables(list(map(self.unpack, packed)))
