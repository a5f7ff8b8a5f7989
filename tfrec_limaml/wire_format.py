"""Varints and length-delimited fields of the protobuf wire format.

For messages that are written without a protobuf library
(https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes of the longest varint: 64 bits, seven per byte.
LONGEST = 10


def varint(number: int) -> bytes:
    """A non-negative integer, seven bits per byte, the lowest first.

    All but the last byte have the highest bit set.
    """
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def read_varint(content: Iterable[int]) -> int:
    """Inverse of `varint`."""
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(content))


def varints(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """`varint` of many numbers.

    Args:
        values: int64 ``[n]``; negative ones as their two's complement.

    Returns:
        Bytes ``[n, 10]`` and the number of used ones ``[n]``.
    """
    septets = values.view(np.uint64)[:, None] >> np.arange(0, 7 * LONGEST, 7, dtype=np.uint64)
    septets &= np.uint64(0x7F)
    highest = LONGEST - (septets[:, ::-1] != 0).argmax(axis=1)
    lengths = np.where(septets.any(axis=1), highest, 1)
    continues = np.arange(LONGEST) < lengths[:, None] - 1
    return septets.astype(np.uint8) | np.where(continues, 0x80, 0).astype(np.uint8), lengths


def opening(field: int, size: int) -> bytes:
    """The first bytes of a length-delimited field: tag and length.

    Args:
        field: Number of the field, at most 15.
        size: Bytes of the content.
    """
    return bytes([field << 3 | 2]) + varint(size)
