"""Inputs for adapting the tasks of one side of a model of two definitions."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from limaml_beam.generate_embeddings import tables


@dataclasses.dataclass(frozen=True)
class TurnInputs:
    """The inputs for adapting one side's tasks, for a model of two definitions.

    Attributes:
        side: The side of the tasks, 0 or 1.
        files: Parquet files with the other side's offsets; empty if no offset is known yet.
    """

    side: int
    files: tuple[str, ...] = ()


class KnownOffsets(Protocol):
    """The known offsets of the other side, for some tasks.

    Attributes:
        side: The side of the tasks, 0 or 1.
    """

    side: int

    def look_up(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """The offsets of some tasks.

        Args:
            keys: Task keys as in a store, bytes ``[n]``.

        Returns:
            Row of each key's offset ``[n]``, and the distinct offsets ``[k, D]``. The offset of an
            unknown task is zero.
        """


class OffsetsInFiles:
    """`KnownOffsets` from Parquet files, in this process's memory."""

    def __init__(self, turn_inputs: TurnInputs, embedding_dim: int) -> None:
        self.side = turn_inputs.side
        keys: list[str] = []
        parts = [np.zeros((1, embedding_dim), np.float32)]  # of unknown tasks
        for batch in tables.read_batches(turn_inputs.files, ["task_key", "embedding"]):
            if len(batch):
                keys += batch["task_key"].to_pylist()
                parts.append(tables.embedding_matrix(batch["embedding"]))
        self._index = pd.Index([key.encode() for key in keys], dtype=object)
        self._offsets = np.concatenate(parts)

    def look_up(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """See `KnownOffsets.look_up`."""
        distinct, rows = np.unique(1 + self._index.get_indexer(keys), return_inverse=True)
        return rows, self._offsets[distinct]
