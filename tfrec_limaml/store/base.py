"""The embedding store's protocol: generations of embeddings, visible one at a time, never mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One published or unpublished run of the embedding job.

    Attributes:
        model_version: The exported model that made the embeddings.
        identifier: Unique and increasing within a model version, for example ``20221122T035400Z``.
        count: Number of embeddings.
        embedding_dim: Width ``D``.
        state: ``"writing"``, ``"published"`` (readable, rollback target) or ``"current"`` (what
            readers see).
        published: Seconds since the epoch; 0 while writing.
    """

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    state: str
    published: float = 0.0


class GenerationWriter(Protocol):
    """Writes one generation; invisible to readers until `publish`.

    A context manager that aborts when left unpublished.
    """

    identifier: str

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """Adds embeddings ``[n, D]``; a key put twice keeps the last value.

        Raises `StoreError` on NaN/inf or a wrong width.
        """

    def publish(self, expected_count: int | None = None) -> Generation:
        """Makes the generation current by one atomic pointer move, after checking its count of
        distinct keys.
        """

    def abort(self) -> None:
        """Drops everything written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class EmbeddingStore(Protocol):
    """Key-value store of meta embeddings, one current generation per model version."""

    def get_many(self, keys: Sequence[str], model_version: int) -> tuple[Matrix, Mask]:
        """Embeddings ``[n, D]`` float32 (zeros where missing) and a found mask ``[n]``, all from
        one generation.

        A model version without a current generation finds nothing: ``[n, 0]`` and all False.
        """

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None
    ) -> GenerationWriter:
        """Opens a generation for writing.

        An unpublished one of the same identifier is dropped first.
        """

    def current(self, model_version: int) -> Generation | None:
        """The generation that readers see, or None."""

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """All generations, oldest first."""

    def rollback(self, model_version: int, identifier: str | None = None) -> Generation:
        """Makes an earlier published generation current (the previous one by default)."""

    def prune(self, model_version: int, keep: int = 2, grace_seconds: float = 3600.0) -> list[str]:
        """Removes published generations beyond the newest `keep`, never the current one nor any
        younger than the grace period.
        """

    def close(self) -> None:
        """Releases connections and handles."""
