"""How blocks travel between stages: as bytes, which runners pass on as they are, and out of the
runner's memory where that helps.

Beam's in-process runner holds every shuffle in memory and decodes and encodes each element twice on
its way. Packed blocks cost it nothing but their size; with a scratch folder, what it holds is the
place of each block in a file.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pyarrow as pa

from limaml_beam.rows.columnar import TableCoder

_PLACE = b"@"  # an Arrow stream begins with ff ff ff ff


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """Packs tables before a shuffle and unpacks them behind it.

    Attributes:
        scratch: A folder on a disk that all workers share, of a run on one machine: packed tables
            are places in its files. None, for engines that keep shuffles on disks of their own:
            packed tables hold the rows.
    """

    scratch: str | None = None

    def pack(self, table: pa.Table) -> bytes:
        """A table as bytes."""
        encoded = TableCoder().encode(table)
        if self.scratch is None:
            return encoded
        # One file per thread of a worker, so that nobody else writes between its end and ours.
        name = f"{os.getpid()}-{threading.get_ident()}"
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        with Path(self.scratch, name).open("ab") as file:
            start = file.tell()
            file.write(encoded)
        return b"%b%d:%d:%b" % (_PLACE, start, len(encoded), name.encode())

    def unpack(self, packed: bytes) -> pa.Table:
        """The table that `pack` was given."""
        if not packed.startswith(_PLACE):
            return TableCoder().decode(packed)
        start, size, name = packed[1:].decode().split(":")
        with Path(str(self.scratch), name).open("rb") as file:
            file.seek(int(start))
            return TableCoder().decode(file.read(int(size)))
