"""TFRecord files: reading and framing records."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
from isal import isal_zlib

from limaml_beam.io.read_errors import SourceError, open_file

_LEVEL = 1  # ISA-L's level: files as small as zlib's at level 3, in a fifth of the time


def read_records(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file; its name tells whether it is compressed by gzip.

    Raises:
        SourceError: A wrong checksum, or a truncated file.
    """
    with open_file(path) as handle:
        index = 0
        while header := handle.read(12):
            size = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            if len(header) < 12 or masked_checksum(header[:8]) != header[8:]:
                raise SourceError(
                    f"{path}: record {index} has a damaged header; the file is truncated or not a "
                    "TFRecord file"
                )
            body = handle.read(size + 4)
            if len(body) < size + 4 or masked_checksum(body[:size]) != body[size:]:
                raise SourceError(
                    f"{path}: record {index} is truncated or damaged (its checksum is wrong)"
                )
            yield body[:size]
            index += 1


def frame_record(record: bytes) -> bytes:
    """One record in the format of a TFRecord file: length, checksum, bytes, checksum."""
    return b"".join((_size_field(len(record)), record, masked_checksum(record)))


def frame_records(records: pa.LargeBinaryArray) -> bytes:
    """`frame_record` of many records, one after another."""
    _, offsets, content = records.buffers()
    body = content.to_pybytes() if content else b""
    edges = np.frombuffer(offsets, np.int64, len(records) + 1).tolist()
    parts: list[bytes] = []
    for start, stop in itertools.pairwise(edges):
        record = body[start:stop]
        parts += (_size_field(stop - start), record, masked_checksum(record))
    return b"".join(parts)


def gzip_compressor() -> Any:
    """A compressor for gzip files without a timestamp: equal records give equal bytes."""
    return isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)


@functools.lru_cache(maxsize=2**16)
def _size_field(size: int) -> bytes:
    packed = struct.pack("<Q", size)
    return packed + masked_checksum(packed)


def masked_checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C, little endian."""
    value = google_crc32c.value(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
