"""Offsets of the earlier turns of a model of two definitions, kept beside its embeddings.

Turn 0 adapts the second definition's tasks without known offsets; each later turn adapts the other
side given the turn before. The last two are the embeddings. `limaml update` repeats the turns with
the tasks that new rows affect, and reads the offsets of all other tasks in each turn from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks import kept_rows
from limaml_beam.build_tasks.kept_rows import KeptRows
from limaml_beam.generate_embeddings import tables
from limaml_beam.io import files
from limaml_beam.rows.columnar import TASK
from tfrec_limaml.errors import LimamlError

FOLDER = "turns"
_OFFSET = "offset"


def turns_of(sweeps: int) -> list[tuple[int, int]]:
    """Each turn, with the side that it adapts."""
    return [(turn, 1 - turn % 2) for turn in range(2 * sweeps)]


def write_offsets(output: str, turn: int, embeddings: Sequence[str]) -> None:
    """Keeps the offsets of one turn below an output.

    Args:
        output: Output of the embedding job.
        turn: Number of the turn.
        embeddings: Parquet files that the turn wrote.
    """
    with kept_rows.writing(files.join(_folder(output, turn), kept_rows.shard_path(0))) as writer:
        for batch in tables.read_batches(embeddings, ["task_key", "embedding"]):
            rows = pa.table({TASK: batch["task_key"], _OFFSET: batch["embedding"]})
            first = np.arange(len(batch), dtype=np.int64)
            writer.add(rows, batch["task_key"].cast(pa.string()), first, first + 1)


def read_offsets(
    output: Path, turn: int, keys: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """The offsets ``[D]`` of the given tasks in a turn, except for tasks that took no part in it.

    Raises:
        LimamlError: The output has none.
    """
    folder = Path(_folder(str(output), turn))
    if not folder.is_dir():
        raise LimamlError(
            f"{output} holds no offsets of earlier turns: run `limaml refresh --keep-rows`, and "
            "give --keep-rows to every later refresh"
        )
    offsets = {}
    for batch in KeptRows(folder, 1).read(keys):
        offsets[batch[TASK][0].as_py()] = tables.embedding_matrix(batch[_OFFSET])[0]
    return offsets


def _folder(output: str, turn: int) -> str:
    return str(files.join(output, FOLDER, str(turn)))
