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


class Found(tuple[Matrix, Mask]):
    """What a look-up found: the pair ``(embeddings, found)``, float32 ``[n, D]`` and bool ``[n]``.

    Attributes:
        damaged: Values that were there but failed a check (checksum, width, not finite); they are
            not found.
    """

    damaged: int

    def __new__(cls, embeddings: Matrix, found: Mask, damaged: int = 0) -> Self:
        """The pair itself is made here: a tuple cannot be filled later."""
        made = super().__new__(cls, (embeddings, found))
        made.damaged = damaged
        return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One published or unpublished run of the embedding job.

    Attributes:
        model_version: The exported model that made the embeddings.
        identifier: Unique and increasing within a model version, for example
            ``20221122T035400Z``.
        count: Number of embeddings.
        embedding_dim: Width ``D``.
        state: ``"published"`` (readable, rollback target), ``"current"`` (what readers see),
            ``"condemned"`` (published, but found bad) or ``"lost"`` (its record is there, its data
            are not).
        published: Seconds since the epoch.
        checked: Whether its values carry checksums; those of release 0.1.0 do not.
    """

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    state: str
    published: float = 0.0
    checked: bool = True


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
        one generation; `Found` where the store counts damaged values.

        Each key is answered for itself: one that no store can hold is not found, and so is one
        whose value is damaged. A model version without a current generation finds nothing:
        ``[n, 0]`` and all False.

        Raises:
            StoreError: The store cannot be reached, or the current generation's data are gone.
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
        """Makes another published generation current: the newest before it that is not condemned,
        or the one named.

        Going back condemns the generation that was current; one that is named is no longer
        condemned.
        """

    def condemn(self, model_version: int, identifier: str) -> Generation:
        """Marks a generation as bad: it does not count among those that `prune` keeps, and no
        rollback chooses it by itself. The current one cannot be condemned.
        """

    def prune(self, model_version: int, keep: int = 2, grace_seconds: float = 3600.0) -> list[str]:
        """Removes condemned generations and those beyond the newest `keep` others, never the
        current one nor any younger than the grace period.
        """

    def close(self) -> None:
        """Releases connections and handles."""
