"""What both backends share: checks of what is written, identifiers, and the stored record of a
generation.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.schema.task_keys import MAX_KEY_BYTES
from tfrec_limaml.store.base import Generation, Mask, Matrix

DTYPES = ("float32", "float16")

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A published generation as stored: what readers must know to decode its values."""

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    dtype: str
    published: float

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    @classmethod
    @functools.lru_cache(maxsize=256)  # readers decode the same few records again and again
    def from_bytes(cls, content: bytes) -> Record:
        """Inverse of `to_bytes`."""
        try:
            return cls(**json.loads(content))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the store holds a generation record that cannot be read: {content[:200]!r}"
            ) from error

    def generation(self, current: bool) -> Generation:
        """The public view of this record."""
        return Generation(
            model_version=self.model_version,
            identifier=self.identifier,
            count=self.count,
            embedding_dim=self.embedding_dim,
            state="current" if current else "published",
            published=self.published,
        )

    @functools.cached_property
    def stored_dtype(self) -> np.dtype[Any]:
        """Element type of the stored vectors, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def value_bytes(self) -> int:
        """Bytes of one stored vector."""
        return self.embedding_dim * self.stored_dtype.itemsize


def check_dtype(dtype: str) -> str:
    """Returns `dtype` or raises `StoreError`."""
    if dtype not in DTYPES:
        raise StoreError(f"dtype must be one of {list(DTYPES)}, received {dtype!r}")
    return dtype


def encode_keys(keys: Sequence[str]) -> list[bytes]:
    """UTF-8 of the keys; raises `StoreError` on an empty or over-long one."""
    encoded = [key.encode() for key in keys]
    for key in encoded:
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(
                f"task keys must have 1 to {MAX_KEY_BYTES} bytes of UTF-8, received {len(key)} "
                f"bytes: {key[:60]!r}"
            )
    return encoded


def encode_embeddings(
    keys: Sequence[str], embeddings: npt.ArrayLike, embedding_dim: int, dtype: str
) -> npt.NDArray[Any]:
    """Checks a batch ``[n, D]`` and casts it to the stored dtype (little-endian).

    Raises:
        StoreError: Wrong shape, or a value that is not finite (in the stored dtype).
    """
    matrix = np.asarray(embeddings)
    if matrix.shape != (len(keys), embedding_dim):
        raise StoreError(
            f"embeddings must have shape [{len(keys)}, {embedding_dim}] (keys, embedding_dim), "
            f"received {list(matrix.shape)}"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(matrix, dtype=np.dtype(dtype).newbyteorder("<"))
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if bad.size:
        raise StoreError(
            f"{bad.size} of {len(keys)} embeddings are not finite as {dtype}, the first that of "
            f"task {keys[bad[0]]!r}; drop them first"
        )
    return stored


def decode_values(values: Sequence[bytes | None], record: Record) -> tuple[Matrix, Mask]:
    """Stored values (None where missing) as ``[n, D]`` float32 and the found mask ``[n]``."""
    missing = bytes(record.value_bytes)
    # A bytearray, so that the caller may write to what he gets without another copy of it.
    content = bytearray().join([missing if value is None else value for value in values])
    matrix = np.frombuffer(content, record.stored_dtype).reshape(len(values), record.embedding_dim)
    return matrix.astype(np.float32, copy=False), np.array(
        [value is not None for value in values], np.bool_
    )


def nothing_found(count: int) -> tuple[Matrix, Mask]:
    """The answer for a model version without a current generation."""
    return np.zeros((count, 0), np.float32), np.zeros(count, np.bool_)


def choose_identifier(requested: str | None, published: Collection[str]) -> str:
    """A checked or new identifier that sorts after every published one.

    New ones are the time, ``20221122T035400Z``, with ``-001``... appended where that is taken.
    """
    newest = max(published, default="")
    if requested is None:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        candidates = [stamp, *(f"{stamp}-{n:03d}" for n in range(1, 1000))]
        later = [c for c in candidates if c > newest]
        if not later:
            raise StoreError(
                f"the newest generation {newest!r} sorts after the present time {stamp!r}; pass "
                "an identifier, or mend the clock"
            )
        return later[0]
    if not _IDENTIFIER.fullmatch(requested):
        raise StoreError(
            "generation identifier must be letters, digits, '.', '_' or '-' (100 at most), "
            f"received {requested!r}"
        )
    if requested <= newest:
        raise StoreError(
            f"generation identifier {requested!r} does not sort after the newest published one "
            f"{newest!r}; choose a later one"
        )
    return requested


def check_count(identifier: str, count: int, expected: int | None) -> None:
    """Raises `StoreError` where a generation does not hold what it should."""
    if expected is not None and count != expected:
        raise StoreError(
            f"generation {identifier!r} holds {count} distinct task keys, expected {expected}: "
            "not published"
        )
    if count == 0:
        raise StoreError(f"generation {identifier!r} is empty: not published")


def rollback_target(
    published: Sequence[Record], current: str | None, identifier: str | None, model_version: int
) -> Record:
    """The published generation that a rollback makes current (oldest first in `published`)."""
    names = [record.identifier for record in published]
    if identifier is not None:
        if identifier not in names:
            raise StoreError(
                f"no published generation {identifier!r} of model version {model_version}; there "
                f"are {names}"
            )
        return published[names.index(identifier)]
    earlier = [
        record for record in published if current is not None and record.identifier < current
    ]
    if not earlier:
        raise StoreError(
            f"no generation of model version {model_version} before {current!r} to roll back to; "
            f"there are {names}"
        )
    return earlier[-1]


def prunable(
    published: Sequence[Record], current: str | None, keep: int, older_than: float
) -> list[Record]:
    """Published generations that may go: not among the newest `keep`, not current, published before
    `older_than`.
    """
    if keep < 1:
        raise StoreError(f"keep must be at least 1, received {keep}")
    return [
        r
        for r in published[: max(0, len(published) - keep)]
        if r.identifier != current and r.published < older_than
    ]
