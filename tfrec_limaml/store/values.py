"""Stored form of keys and vectors in both backends.

A stored value is the vector's little-endian floats and four bytes of CRC-32. The checksum covers
the generation (model version, identifier, width, element type) and the task key too: a value of
another version or another member fails the check.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.schema.task_keys import MAX_KEY_BYTES, fits
from tfrec_limaml.store.base import LookUpResult, Matrix
from tfrec_limaml.store.generation_record import Record

#: Key of the generation's header inside its data. Not UTF-8, so it cannot be a task key.
HEADER = b"\xff"

# Replaces keys that cannot be stored: also not UTF-8, and never written.
_UNSTORABLE = b"\xfe"
_CHECKSUM_BYTES = 4
# The CRC-32 of any content followed by its own CRC-32 in little-endian order.
_RESIDUE = 0x2144DF1C
_INTACT = frozenset({_RESIDUE})


def encode_keys(keys: Sequence[str]) -> list[bytes]:
    """UTF-8 of keys to write; raises `StoreError` if one cannot be stored."""
    for key in keys:
        if not fits(key):
            raise StoreError(
                f"task keys must have 1 to {MAX_KEY_BYTES} bytes of UTF-8, received {key[:60]!r} "
                f"of {len(key)} characters"
            )
    return [key.encode() for key in keys]


def encode_look_up(keys: Sequence[str]) -> list[bytes]:
    """UTF-8 of keys to look up; one that cannot be stored becomes a key that never exists.

    Raises `StoreError` for keys that are no texts, or a single text.
    """
    if isinstance(keys, str):
        raise StoreError(f"expected several task keys, received the text {keys!r}: pass [{keys!r}]")
    try:
        encoded = list(map(str.encode, keys))
        lengths = set(map(len, encoded))
        if not lengths or (min(lengths) > 0 and max(lengths) <= MAX_KEY_BYTES):
            return encoded
    except UnicodeEncodeError:
        pass  # checked one by one below
    except TypeError as error:
        raise StoreError(
            "task keys are texts (tfrec_limaml.schema.task_keys.task_key makes them of values): "
            f"{error}"
        ) from error
    return [key.encode() if fits(key) else _UNSTORABLE for key in keys]


def encode_values(
    keys: Sequence[str], encoded: Sequence[bytes], embeddings: npt.ArrayLike, record: Record
) -> list[bytes]:
    """The stored values of a batch ``[n, D]``.

    Raises:
        StoreError: Wrong shape, or a value that is not finite (in the stored dtype).
    """
    stored = _stored_matrix(keys, embeddings, record)
    content, width, seed = stored.tobytes(), record.vector_bytes, record.seed
    result = []
    for start, key in zip(itertools.count(0, width), encoded, strict=False):
        vector = content[start : start + width]
        checksum = zlib.crc32(vector, zlib.crc32(key, seed))
        result.append(vector + checksum.to_bytes(_CHECKSUM_BYTES, "little"))
    return result


def _stored_matrix(
    keys: Sequence[str], embeddings: npt.ArrayLike, record: Record
) -> npt.NDArray[Any]:
    matrix = np.asarray(embeddings)
    if matrix.shape != (len(keys), record.embedding_dim):
        raise StoreError(
            f"embeddings must have shape [{len(keys)}, {record.embedding_dim}] (keys, "
            f"embedding_dim), received {list(matrix.shape)}"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(matrix, dtype=record.stored_dtype)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if bad.size:
        raise StoreError(
            f"{bad.size} of {len(keys)} embeddings are not finite as {record.dtype}, the first "
            f"one of task {keys[bad[0]]!r}; remove them first"
        )
    return stored


def decode_values(
    keys: Sequence[bytes], values: Sequence[bytes | None], record: Record
) -> LookUpResult:
    """Stored values (None if missing) as embeddings; a damaged one counts as not found."""
    has_checksums = record.format >= 2
    width = record.vector_bytes + (_CHECKSUM_BYTES if has_checksums else 0)
    if has_checksums and None not in values:
        stored = cast("Sequence[bytes]", values)
        if set(map(len, stored)) <= {width} and _checksums(keys, stored, record.seed) <= _INTACT:
            # By far the most common case.
            found = np.ones(len(values), np.bool_)
            return LookUpResult(_matrix(stored, record, width), found, model=record.model)
    return _decode_one_by_one(keys, values, record, width)


def _decode_one_by_one(
    keys: Sequence[bytes], values: Sequence[bytes | None], record: Record, width: int
) -> LookUpResult:
    placeholder, seed = bytes(width), record.seed
    width_mask = [value is not None and len(value) == width for value in values]
    filled = [v if v is not None and len(v) == width else placeholder for v in values]
    matrix = _matrix(filled, record, width)
    found = np.array(width_mask, np.bool_)
    if record.format >= 2:
        found &= [
            has_width and zlib.crc32(value, zlib.crc32(key, seed)) == _RESIDUE
            for key, value, has_width in zip(keys, filled, width_mask, strict=True)
        ]
    else:
        found &= np.isfinite(matrix).all(axis=1)
    damaged = len(values) - values.count(None) - int(np.count_nonzero(found))
    if damaged:
        matrix[~found] = 0.0
    return LookUpResult(matrix, found, damaged, record.model)


def _matrix(values: Sequence[bytes], record: Record, width: int) -> Matrix:
    # A bytearray, so that the caller may write to the result without a copy.
    rows = np.frombuffer(bytearray().join(values), record.stored_dtype)
    rows = rows.reshape(len(values), width // record.stored_dtype.itemsize)
    matrix: Matrix = np.ascontiguousarray(rows[:, : record.embedding_dim], np.float32)
    return matrix


def _checksums(keys: Sequence[bytes], values: Sequence[bytes], seed: int) -> set[int]:
    return set(map(zlib.crc32, values, map(zlib.crc32, keys, itertools.repeat(seed))))


def empty_result(count: int) -> LookUpResult:
    """The answer for a model version without a current generation."""
    return LookUpResult(np.zeros((count, 0), np.float32), np.zeros(count, np.bool_))
