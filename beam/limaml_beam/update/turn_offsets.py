"""The offsets of a turn of tasks outside an update, for models of two definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from limaml_beam.generate_embeddings import turns
from limaml_beam.update.state import Offset, UpdateState
from tfrec_limaml.errors import StoreError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import EmbeddingStore
from tfrec_limaml.store.erasure import Tombstones

_KEYS_AT_ONCE = 10_000  # in one look-up in the store


class TurnOffsets:
    """The offsets of tasks outside the update.

    Those of the last turn but one are the embeddings in the store. Those of earlier turns are
    beside the output of the refresh, and newer ones in the state of updates. Erased tasks have
    none.

    Args:
        work: The work folder.
        manifest: The manifest of the model.
        store: The store.
        state: The state of updates.
        erased: Digests of the erased keys.
    """

    def __init__(
        self,
        work: Path,
        manifest: Manifest,
        store: EmbeddingStore,
        state: UpdateState,
        erased: frozenset[bytes],
    ) -> None:
        self._outputs, self._manifest = work / "embeddings", manifest
        self._store, self._state = store, state
        self._tombstones = Tombstones(erased)
        self._last = 2 * int(manifest.inner_loop.get("sweeps", 1)) - 2

    def __call__(self, turn: int, keys: Sequence[str]) -> Mapping[str, Offset]:
        """See `limaml_beam.update.adapting.OffsetLookUp`."""
        if turn >= self._last:
            return self._in_store(keys)
        offsets = self._state.turn(turn, keys)
        missing = [key for key in keys if key not in offsets]
        is_erased = self._tombstones.matches([key.encode() for key in missing])
        missing = [key for key, erased in zip(missing, is_erased, strict=True) if not erased]
        return (
            {**turns.read_offsets(self._output(), turn, missing), **offsets} if missing else offsets
        )

    def _output(self) -> Path:
        return self._outputs / current_generation(self._store, self._manifest.model_version)

    def _in_store(self, keys: Sequence[str]) -> dict[str, Offset]:
        offsets: dict[str, Offset] = {}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            batch_keys = keys[start : start + _KEYS_AT_ONCE]
            matrix, found = self._store.get_many(batch_keys, self._manifest.model_version)
            offsets |= {batch_keys[row]: matrix[row] for row in np.flatnonzero(found).tolist()}
        return offsets


def current_generation(store: EmbeddingStore, version: int) -> str:
    """Identifier of the generation to update; raises `StoreError` if nothing is published."""
    current = store.current(version)
    if current is None:
        raise StoreError(
            f"the store has no generation of model version {version} to update: publish one "
            "with limaml refresh"
        )
    return current.identifier
