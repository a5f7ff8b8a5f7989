"""Erased task keys: their tombstones, and the stored keys that they include.

A store keeps a digest of each erased key, a *tombstone*, so that no later publication or upsert
brings the key back. An erased key includes every key of a nested definition that begins with its
parts: ``17`` includes ``17|mail``, but ``17|mail`` does not include ``17``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tfrec_limaml.store import values
from tfrec_limaml.store.base import Mask

DIGEST_BYTES = 16
#: Separator of the parts of a task key.
_SEPARATOR = b"|"


def key_digest(key: str | bytes) -> bytes:
    """A digest of a task key, 16 bytes."""
    content = key.encode() if isinstance(key, str) else key
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def digests_of(key: bytes) -> list[bytes]:
    """Digests of all erased keys that would include this one.

    They are the key itself and each sequence of its first parts.
    """
    parts = key.split(_SEPARATOR)
    return [key_digest(_SEPARATOR.join(parts[:stop])) for stop in range(1, len(parts) + 1)]


class Tombstones:
    """The erased keys of a store at the time of reading.

    Args:
        digests: `key_digest` of each.
    """

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self.digests = frozenset(digests)

    def __len__(self) -> int:
        return len(self.digests)

    def matches(self, keys: Sequence[bytes]) -> Mask:
        """Whether each key is erased, ``[n]``."""
        if not self.digests:
            return np.zeros(len(keys), np.bool_)
        erased = (not self.digests.isdisjoint(digests_of(key)) for key in keys)
        return np.fromiter(erased, np.bool_, len(keys))

    def hide(self, keys: Sequence[bytes], stored: Sequence[bytes | None]) -> list[bytes | None]:
        """Stored values ``[n]`` with None in place of those of erased keys."""
        erased = self.matches(keys)
        return [None if hidden else value for hidden, value in zip(erased, stored, strict=True)]


class ErasedFilter:
    """Keeps erased keys out of a new generation.

    Args:
        tombstones: Those of the store when the writer was opened.
    """

    def __init__(self, tombstones: Tombstones) -> None:
        self.tombstones = tombstones
        self._left_out: set[bytes] = set()
        self._opening_time = round(time.time() * 1000)

    @property
    def left_out(self) -> int:
        """Distinct keys that were left out."""
        return len(self._left_out)

    def without_erased(self, keys: Sequence[bytes], stored: Sequence[bytes]) -> dict[bytes, bytes]:
        """Values by key without erased keys; the last one of each key."""
        rows = dict(zip(keys, stored, strict=True))
        if len(self.tombstones):
            names = list(rows)
            for index in np.flatnonzero(self.tombstones.matches(names)):
                del rows[names[index]]
                self._left_out.add(names[index])
        return rows

    def opening_times(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """The default `EventTimes`: the time at which the writer was opened, for each key."""
        return np.full(len(keys), self._opening_time)


def encode_distinct(keys: Sequence[str]) -> list[bytes]:
    """Keys to erase, encoded and distinct; raises `StoreError` on one that no store can hold."""
    return list(dict.fromkeys(values.encode_keys(keys)))


def is_erased(stored: bytes, erased: Collection[bytes]) -> bool:
    """Whether one of some erased keys includes a stored key; see the module's text."""
    return bool(matching(stored, erased))


def matching(stored: bytes, erased: Collection[bytes]) -> list[bytes]:
    """The erased keys that include a stored key."""
    parts = stored.split(_SEPARATOR)
    beginnings = (_SEPARATOR.join(parts[:stop]) for stop in range(1, len(parts) + 1))
    return [beginning for beginning in beginnings if beginning in erased]


def all_matching(stored: Iterable[bytes], erased: Collection[bytes]) -> frozenset[str]:
    """The erased keys that include at least one of some stored keys, as text."""
    return frozenset(found.decode() for key in stored for found in matching(key, erased))


def nested_prefix(key: bytes) -> bytes:
    """Prefix of the keys of a task's nested definitions."""
    return key + _SEPARATOR
