"""Inputs for adapting the tasks of one side of a model of two definitions."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from limaml_beam.generate_embeddings import tables


@dataclasses.dataclass(frozen=True)
class Given:
    """The inputs for adapting one side's tasks, for a model of two definitions.

    Attributes:
        side: The side of the tasks, 0 or 1.
        files: Parquet files with the other side's offsets; empty if no offset is known yet.
    """

    side: int
    files: tuple[str, ...] = ()


class Others(Protocol):
    """The known offsets of the other side, for some tasks.

    Attributes:
        side: The side of the tasks, 0 or 1.
    """

    side: int

    def of(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Rows ``[n]`` of each key's offset among the distinct ones ``[k, D]`` of these keys (as a
        store has them, bytes); the offset of an unknown one is zero.
        """


class OthersInFiles:
    """See `Others`; the other side's offsets are in this process's memory."""

    def __init__(self, given: Given, embedding_dim: int) -> None:
        self.side = given.side
        keys: list[str] = []
        parts = [np.zeros((1, embedding_dim), np.float32)]  # of unknown tasks
        for batch in tables.read_batches(given.files, ["task_key", "embedding"]):
            if len(batch):
                keys += batch["task_key"].to_pylist()
                parts.append(tables.embedding_matrix(batch["embedding"]))
        self._index = pd.Index([key.encode() for key in keys], dtype=object)
        self._offsets = np.concatenate(parts)

    def of(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """See `Others.of`."""
        used, rows = np.unique(1 + self._index.get_indexer(keys), return_inverse=True)
        return rows, self._offsets[used]
