"""Vectors of published generations that this process keeps in memory.

A request that ranks many candidates with their own embeddings looks up many keys, mostly those of
earlier requests. A look-up in LMDB waits for memory: its pages leave the processor's caches between
two requests. A kept vector is one entry of a dictionary, decoded and checked when it was read. The
data of a generation never change, so a kept vector stays valid; an erasure writes new data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np

from tfrec_limaml.store.base import LookUpResult, Matrix

#: A look-up of fewer keys keeps nothing: members, who seldom return, would fill the memory.
FROM_KEYS = 16
#: Bytes of vectors that are kept per generation: 65,536 vectors of 32 numbers. (Their keys take one
#: to two times as much.)
_BYTES = 2**23
#: Number of generations whose vectors are kept: one for each of two model versions in a roll-out.
_GENERATIONS = 2


class KeptVectors:
    """The vectors of one generation that were looked up first.

    Args:
        width: Width ``D`` of the vectors.
        capacity: Number of vectors that are kept; others are read each time.
    """

    def __init__(self, width: int, capacity: int) -> None:
        self._width = width
        self._capacity = capacity
        self._vectors: dict[str, bytes] = {}

    def get_many(
        self,
        keys: Sequence[str],
        overlay_keys: Collection[str],
        read: Callable[[Sequence[str]], LookUpResult],
    ) -> LookUpResult:
        """The vectors of `keys`.

        Args:
            keys: Task keys, at least 2.
            overlay_keys: Keys with a newer vector in the overlay: always read, never kept.
            read: Reads vectors.
        """
        if not overlay_keys:
            try:  # faster than one look-up per key: waits for memory overlap
                vectors = itemgetter(*keys)(self._vectors)
            except KeyError:
                pass
            else:
                return LookUpResult(self._matrix(vectors), np.ones(len(keys), np.bool_))
        cached = [None if key in overlay_keys else self._vectors.get(key) for key in keys]
        missing = np.array([vector is None for vector in cached])
        keys_to_read = [key for key, vector in zip(keys, cached, strict=True) if vector is None]
        result = read(keys_to_read)
        zeros = bytes(4 * self._width)
        matrix = self._matrix([vector or zeros for vector in cached])
        matrix[missing], found = result[0], ~missing
        found[missing] = result[1]
        self._keep(keys_to_read, overlay_keys, result)
        return LookUpResult(matrix, found, result.damaged)

    def _matrix(self, vectors: Sequence[bytes]) -> Matrix:
        # A bytearray, so that the caller may write to the result without a copy.
        return np.frombuffer(bytearray().join(vectors), np.float32).reshape(-1, self._width)

    def _keep(
        self, keys: Sequence[str], overlay_keys: Collection[str], result: LookUpResult
    ) -> None:
        room = self._capacity - len(self._vectors)
        if room > 0:
            self._vectors |= {
                key: vector.tobytes()
                for key, vector, found in zip(keys[:room], *result, strict=False)
                if found and key not in overlay_keys
            }


class KeptGenerations:
    """The kept vectors of the current generations."""

    def __init__(self) -> None:
        self._vectors: dict[int, tuple[tuple[Path, int], KeptVectors]] = {}

    def vectors_of(self, model_version: int, data: tuple[Path, int], width: int) -> KeptVectors:
        """The kept vectors of the generation with this data.

        Those of the version's earlier generation are dropped.

        Args:
            model_version: The version.
            data: Folder of the data, and how often the store's folder has been replaced.
            width: Width ``D`` of the vectors.
        """
        former, vectors = self._vectors.get(model_version, (None, None))
        if vectors is None or former != data:
            vectors = KeptVectors(width, _BYTES // (4 * width))
            other_versions = [(v, k) for v, k in self._vectors.items() if v != model_version]
            self._vectors = {
                **dict(other_versions[1 - _GENERATIONS :]),
                model_version: (data, vectors),
            }
        return vectors

    def clear(self) -> None:
        """Drops all."""
        self._vectors = {}
