"""Checkpoint files. Each holds the whole state of a training run and is written atomically."""

from __future__ import annotations

import dataclasses
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tfrec_limaml import staging
from tfrec_limaml.arrays import Array
from tfrec_limaml.errors import LimamlError

#: Number of files that are kept.
KEEP_FILES = 2
_META = "meta"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a training run between two batches.

    Attributes:
        epoch: Number of the current or next epoch.
        calls: Calls of the training function so far in this epoch.
        finished: Whether training is over.
        logs: The metrics that the last call returned.
        history: Learning curves of the earlier epochs.
        stopping: State of early stopping, without weights.
        identity: Values that determine the result of the training; see `Checkpoints`.
        variables: Values of all variables.
        best: Weights of the best epoch; empty before the first epoch ends.
    """

    epoch: int
    calls: int
    finished: bool
    logs: dict[str, float]
    history: dict[str, list[float]]
    stopping: dict[str, Any]
    identity: dict[str, Any]
    variables: list[Array]
    best: list[Array]

    def write(self, folder: Path) -> None:
        """Writes the file, and removes all but the newest two."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays: dict[str, Any] = {
            f"{name}_{i}": array
            for name in ("variables", "best")
            for i, array in enumerate(values.pop(name))
        }
        arrays[_META] = np.frombuffer(json.dumps(values, default=float).encode(), np.uint8)
        with staging.file(folder / f"checkpoint-{self.epoch:06d}-{self.calls:09d}.npz") as path:
            np.savez(path, **arrays)
        for old in _files(folder)[KEEP_FILES:]:
            old.unlink()

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Reads a file; each array is checked by its CRC-32."""
        with np.load(path, allow_pickle=False) as arrays:
            values = json.loads(arrays[_META].tobytes())
            for name in ("variables", "best"):
                count = sum(key.startswith(f"{name}_") for key in arrays.files)
                values[name] = [arrays[f"{name}_{i}"] for i in range(count)]
        return cls(**values)


def newest(folder: Path) -> Checkpoint | None:
    """The newest readable checkpoint of a folder; None if there is none.

    Warns about each damaged file that it skips.

    Raises:
        LimamlError: All checkpoints are damaged.
    """
    damaged = []
    for path in _files(folder):
        try:
            return Checkpoint.read(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            damaged.append(path)
            warnings.warn(
                f"checkpoint {path} is damaged ({error}): continuing from the previous one",
                stacklevel=2,
            )
    if damaged:
        raise LimamlError(
            f"all checkpoints in {folder} are damaged; remove the folder to train from the start"
        )
    return None


def is_unfinished(folder: Path) -> bool:
    """Whether a folder, or one in it, holds checkpoints."""
    return any(folder.glob("**/checkpoint-*.npz"))


def _files(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("checkpoint-*.npz"), reverse=True)
