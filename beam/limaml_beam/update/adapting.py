"""Adapts updated tasks, of one definition or of two, neither of which refines the other.

With two definitions, the updated tasks repeat the turns of the embedding job
(`limaml_beam.generate_embeddings.turns`): each turn adapts the tasks of one side, given the other
side's offsets from the turn before. The offsets of updated tasks are those of this update, all
others are those of the refresh or an earlier update in that turn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.adapter import load_model, packed_adapter
from limaml_beam.generate_embeddings.artefacts import manifest_digest
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.packed_adapter import PackedAdapter
from limaml_beam.generate_embeddings.record_batches import batches_by_width
from limaml_beam.generate_embeddings.transforms import ToTables
from limaml_beam.generate_embeddings.turns import turns_of
from limaml_beam.update.state import Offset
from tfrec_limaml.errors import VersionMismatchError
from tfrec_limaml.manifest import Manifest

_SERVING_TAG = "serve"

#: Maps a turn and task keys (as in a store) to the known offsets of that turn.
OffsetLookUp: TypeAlias = Callable[[int, Sequence[str]], Mapping[str, Offset]]


class OtherModelError(VersionMismatchError):
    """The model in memory is not the one that is needed."""


@dataclasses.dataclass
class AdaptedTasks:
    """Results of the updated tasks.

    Attributes:
        tables: Embeddings of the tasks.
        letters: Records that the adapter refuses, as JSON lines.
        turns: With two definitions, the tasks' offsets of each earlier turn, by key in a store.
    """

    tables: list[pa.Table] = dataclasses.field(default_factory=list)
    letters: list[str] = dataclasses.field(default_factory=list)
    turns: dict[int, dict[str, Offset]] = dataclasses.field(default_factory=dict)


class TaskAdapter:
    """Computes the embeddings of updated tasks; the model is loaded once.

    Args:
        adapter: ``adapter/<version>``.
        manifest: The manifest of the adapter.
        digest: The digest of the manifest.
    """

    def __init__(self, adapter: str, manifest: Manifest, digest: str) -> None:
        self._path, self._manifest, self._digest = adapter, manifest, digest
        self._model: Any = None

    def load(self) -> None:
        """Loads the model; otherwise the first call of `adapt` loads it.

        Raises:
            OtherModelError: Another export has taken the adapter's place since the manifest was
                read.
        """
        if self._model is None:
            model = load_model(self._path, [_SERVING_TAG], 0)
            if manifest_digest(self._path) != self._digest:
                raise OtherModelError(
                    f"{self._path} was replaced by another export before it was loaded: try again"
                )
            self._model = model

    def adapt(self, records: Sequence[Sequence[bytes]], look_up: OffsetLookUp) -> AdaptedTasks:
        """Adapts tasks.

        Args:
            records: Recent records, by definition: the manifest's task definition first.
            look_up: With two definitions, the offsets of tasks in a turn; the last turn that it is
                called with is the last but one, whose offsets are embeddings.
        """
        if not any(records):
            return AdaptedTasks()
        self.load()
        dim = self._manifest.embedding_dim
        if not self._manifest.joint_definitions:
            return AdaptedTasks(*self._adapt_with(packed_adapter(self._model, dim), records[0]))
        result, offsets = AdaptedTasks(), None
        turns = turns_of(int(self._manifest.inner_loop["sweeps"]))
        for turn, side in turns:
            turn_offsets = _TurnOffsets(
                side, dim, turn - 1, look_up, {} if offsets is None else offsets
            )
            embeddings, letters = self._adapt_with(
                packed_adapter(self._model, dim, known_offsets=turn_offsets), records[side]
            )
            offsets = _by_key(embeddings)
            if turn >= len(turns) - 2:
                result.tables += embeddings
                result.letters += letters
            else:
                result.turns[turn] = offsets
        return result

    def _adapt_with(
        self, adapter: PackedAdapter, records: Sequence[bytes]
    ) -> tuple[list[pa.Table], list[str]]:
        """Embeddings and dead letters of records."""
        to_tables = ToTables(self._manifest, generation="")
        embeddings, letters = [], []
        for batch in batches_by_width(records, EmbedOptions.batch_size):
            for part in to_tables.split(batch, adapter.adapt(batch)):
                if isinstance(part, pa.Table):
                    embeddings.append(part)
                elif getattr(part, "tag", None) == tables.DEAD_LETTERS:
                    letters += [_letter(row) for row in part.value.to_pylist()]  # type: ignore[attr-defined]
        return embeddings, letters


class _TurnOffsets:
    """The other side's offsets in a turn; see `generate_embeddings.other_side.KnownOffsets`.

    Args:
        side: The side of the tasks that are adapted given these.
        dim: Width ``D``.
        turn: The turn; before the first one no offset is known.
        look_up: Offsets of tasks outside this update.
        offsets: Offsets of tasks in this update.
    """

    def __init__(
        self, side: int, dim: int, turn: int, look_up: OffsetLookUp, offsets: dict[str, Offset]
    ) -> None:
        self.side = side
        self._turn, self._stored_offsets = turn, look_up
        self._known = dict(offsets)
        self._zero = np.zeros(dim, np.float32)

    def look_up(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """See `KnownOffsets.look_up`."""
        index_of_key: dict[str, int] = {}
        rows = [index_of_key.setdefault(key.decode(), len(index_of_key)) for key in keys.tolist()]
        unknown = [key for key in index_of_key if key not in self._known]
        if unknown:
            looked_up = self._stored_offsets(self._turn, unknown) if self._turn >= 0 else {}
            self._known |= {key: looked_up.get(key, self._zero) for key in unknown}
        offsets = [self._known[key] for key in index_of_key] or [self._zero]
        return np.array(rows, np.int32), np.stack(offsets)


def _by_key(embeddings: Sequence[pa.Table]) -> dict[str, Offset]:
    return {
        key: vector
        for table in embeddings
        for key, vector in zip(
            table["task_key"].to_pylist(), tables.embedding_matrix(table["embedding"]), strict=True
        )
    }


def _letter(row: Mapping[str, Any]) -> str:
    """A refused record as a JSON line; its rows are in the state of updates."""
    return json.dumps({"reason": row["reason"], "detail": row["detail"]}, ensure_ascii=False)
