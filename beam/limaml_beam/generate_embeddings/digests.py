"""Digests of records and task keys, and sets of digests: 16 bytes each, in one sorted array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tfrec_limaml.store.erasure import DIGEST_BYTES

# Compared byte by byte. NumPy ignores zero bytes at the end of such values, which does not matter
# because all have the same length.
_TYPE = np.dtype(f"S{DIGEST_BYTES}")

Digests = npt.NDArray[np.bytes_]


def digest(record: bytes) -> bytes:
    """16 bytes that identify the content of a record, which includes its task key."""
    return hashlib.sha256(record).digest()[
        :DIGEST_BYTES
    ]  # processors have instructions for this one


def as_array(content: bytes | bytearray) -> Digests:
    """Joined digests as an array ``[n]``, without a copy."""
    return np.frombuffer(content, _TYPE)


class DigestSet:
    """A set of digests that takes 16 bytes for each.

    Args:
        parts: Joined digests; one may occur several times.
    """

    def __init__(self, parts: Iterable[bytes]) -> None:
        content = bytearray()
        for part in parts:
            content += part
        self._sorted = as_array(content)
        self._sorted.sort()

    def __len__(self) -> int:
        return len(self._sorted)

    def contains(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Which of some digests ``[n]`` are in the set."""
        if not len(self):
            return np.zeros(len(digests), bool)
        positions = np.searchsorted(self._sorted, digests)
        positions[positions == len(self)] = 0
        return np.asarray(self._sorted[positions] == digests)
