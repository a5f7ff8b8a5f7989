"""The embedding store's protocol: generations of embeddings, visible one at a time, never mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
#: Task keys to the time of each one's last interaction, milliseconds ``[n]``.
EventTimes = Callable[[Sequence[str]], npt.NDArray[np.int64]]


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
        overlay: Whether embeddings were upserted since it was published.
    """

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    state: str
    published: float = 0.0
    checked: bool = True
    overlay: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upserted:
    """What became of the rows of one `EmbeddingStore.upsert`.

    Attributes:
        applied: Embeddings that readers see now.
        older: Rows left out because a newer event of their task is there, or comes in the same
            call.
        erased: Rows left out because their task key was erased.
    """

    applied: int
    older: int
    erased: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A part of a store, and how many of the task keys in question it holds (or held).

    Attributes:
        model_version, generation: The generation.
        part: ``"data"`` or ``"overlay"``.
        keys: Task keys, those of nested definitions included.
    """

    model_version: int
    generation: str
    part: str
    keys: int


class GenerationWriter(Protocol):
    """Writes one generation; invisible to readers until `publish`.

    A context manager that aborts when left unpublished.
    """

    identifier: str

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """Adds embeddings ``[n, D]``; a key put twice keeps the last value.

        Erased keys are left out. Raises `StoreError` on NaN/inf or a wrong width.
        """

    def publish(
        self, expected_count: int | None = None, event_times: EventTimes | None = None
    ) -> Generation:
        """Makes the generation current by one atomic pointer move, after checking its count of
        distinct keys (erased ones count as put).

        Entries of the current generation's overlay that are newer than this generation's data are
        taken over before the pointer moves: no member goes back in time.

        Args:
            expected_count: Distinct task keys that were put.
            event_times: Tells up to when this generation knows each of some tasks; asked for the
                tasks of the overlay alone. Without it that is the moment the writer was opened.

        Raises:
            ErasedMeanwhileError: Keys were erased since the writer was opened: write it again.
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

    def upsert(
        self,
        model_version: int,
        generation: str,
        keys: Sequence[str],
        vectors: Matrix,
        event_times: Sequence[int],
    ) -> Upserted:
        """Puts newer embeddings over those of the current generation; readers see them at once.

        A newer event wins; of equal times the later call (in one call: the later row) does. The
        entries live in the generation's overlay: `rollback` and `condemn` drop it.

        Args:
            model_version: Of the embeddings.
            generation: Name of the generation they belong to.
            keys: Task keys ``[n]``.
            vectors: Embeddings ``[n, D]``.
            event_times: Milliseconds of each task's last interaction ``[n]``.

        Raises:
            NotCurrentError: Another generation is current: adapt again, from its data.
            StoreError: Wrong shapes, values that are not finite, or the store cannot be reached.
        """

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """Removes task keys from every generation and overlay of every model version, with the
        keys of nested definitions that begin with them, and keeps them out from now on.

        Readers answer "not found" from the first step on. A call that was killed is completed by
        calling again with the same keys.

        Returns:
            Where keys were removed.
        """

    def search(self, keys: Sequence[str]) -> list[Place]:
        """Where the store holds these task keys, or those of nested definitions that begin with
        them; readers may already find none of them.
        """

    def erased(self) -> frozenset[bytes]:
        """Digests of all keys that were erased (`tfrec_limaml.store.erasure.key_digest`)."""

    def current(self, model_version: int) -> Generation | None:
        """The generation that readers see, or None."""

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """All generations, oldest first."""

    def rollback(self, model_version: int, identifier: str | None = None) -> Generation:
        """Makes another published generation current: the newest before it that is not condemned,
        or the one named.

        Going back condemns the generation that was current; one that is named is no longer
        condemned. The overlays of both are dropped.
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
