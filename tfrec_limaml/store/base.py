"""The embedding store's protocol: generations of embeddings, visible one at a time, never mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from tfrec_limaml.arrays import Integers
from tfrec_limaml.arrays import Mask as Mask  # a public name of this module too
from tfrec_limaml.closing import Closing as Closing

#: Embeddings, one row per task ``[n, D]``.
Matrix = npt.NDArray[np.float32]
#: Generations that `EmbeddingStore.prune` keeps, besides those published within the last seconds,
#: which readers may have just opened.
KEEP, GRACE_SECONDS = 2, 3600.0
#: Maps task keys to the times of their last interactions, milliseconds ``[n]``.
EventTimes = Callable[[Sequence[str]], Integers]


class LookUpResult(tuple[Matrix, Mask]):
    """The result of a look-up: ``(embeddings, found)``, float32 ``[n, D]`` and bool ``[n]``.

    Attributes:
        damaged: Number of values that failed a check (checksum, width, not finite); they count as
            not found.
        model: Digest of the manifest of the embeddings' model; empty if unknown.
    """

    damaged: int
    model: str

    def __new__(cls, embeddings: Matrix, found: Mask, damaged: int = 0, model: str = "") -> Self:
        """Creates the pair; a tuple cannot be changed in `__init__`."""
        result = super().__new__(cls, (embeddings, found))
        result.damaged, result.model = damaged, model
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One published or unpublished run of the embedding job.

    Attributes:
        model_version: The exported model of the embeddings.
        identifier: Unique and increasing within a model version, for example
            ``20221122T035400Z``.
        count: Number of embeddings.
        embedding_dim: Width ``D``.
        state: ``"published"`` (readable, rollback target), ``"current"`` (visible to readers),
            ``"condemned"`` (published, but marked as bad) or ``"lost"`` (its record exists, its
            data do not).
        published: Seconds since the epoch.
        checked: Whether its values have checksums; those of release 0.1.0 do not.
        overlay: Whether embeddings were upserted since it was published.
        model: Digest of the manifest of the embeddings' model; empty if unknown.
    """

    model_version: int
    identifier: str
    count: int
    embedding_dim: int
    state: str
    published: float = 0.0
    checked: bool = True
    overlay: bool = False
    model: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upserted:
    """The result of one `EmbeddingStore.upsert`.

    Attributes:
        applied: Number of embeddings that are now visible.
        older: Number of rows left out because of a newer event of their task, in the store or in
            the same call.
        erased: Number of rows left out because their task key was erased.
    """

    applied: int
    older: int
    erased: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A part of a store that holds some of the given task keys, or held them before an erasure.

    Attributes:
        model_version, generation: The generation.
        part: ``"data"`` or ``"overlay"``.
        keys: Number of task keys found, those of nested definitions included.
        matched: The given task keys that these are, or belong to.
    """

    model_version: int
    generation: str
    part: str
    keys: int
    matched: frozenset[str] = dataclasses.field(default=frozenset(), repr=False)


class GenerationWriter(Protocol):
    """Writes one generation; invisible to readers until `publish`.

    A context manager that aborts if it is left without publication.
    """

    identifier: str

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """Adds embeddings ``[n, D]``; a key put twice keeps the last value.

        Erased keys are left out. Raises `StoreError` on NaN/inf or a wrong width.
        """

    def publish(
        self, expected_count: int | None = None, event_times: EventTimes | None = None
    ) -> Generation:
        """Makes the generation current by one atomic pointer move.

        Before, it checks the number of distinct keys, erased keys included.

        Entries of the current generation's overlay that are newer than this generation's data are
        copied before the pointer moves: no member's embedding is replaced by an older one.

        Args:
            expected_count: Distinct task keys that were put.
            event_times: Maps task keys to the times up to which this generation contains their
                interactions; called for the tasks of the overlay only. By default the time at which
                the writer was opened.

        Raises:
            ErasedMeanwhileError: Keys were erased since the writer was opened: write the generation
                again.
            StoreError: The number of keys is not `expected_count`, there are none, the writer has
                published or aborted before, or the store cannot be written.
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
class EmbeddingStore(Closing, Protocol):
    """Key-value store of meta embeddings, one current generation per model version.

    A context manager: the end of a ``with`` block calls ``close``, which releases connections and
    handles; a later call of another method opens them again.

    A store that can make erasures wait also has ``without_erasures()``, a context in which none
    begins.
    """

    def get_many(self, keys: Sequence[str], model_version: int) -> tuple[Matrix, Mask]:
        """Embeddings float32 ``[n, D]`` (zeros if missing) and a found mask ``[n]``.

        All are from one generation. The result is a `LookUpResult` if the store counts damaged
        values.

        Keys are independent: a key that no store can hold is not found, and neither is one whose
        value is damaged. Without a current generation of the model version nothing is found: ``[n,
        0]`` and all False.

        Raises:
            StoreError: The store cannot be reached, or the current generation's data are gone.
        """

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None, model: str = ""
    ) -> GenerationWriter:
        """Opens a generation for writing.

        An unpublished one of the same identifier is dropped first.

        Args:
            model_version: The exported model of the embeddings.
            embedding_dim: Width ``D``.
            identifier: Must sort after the newest published one of the model version. By default
                the current time, or a name after the newest one.
            model: Digest of the model's manifest: clients of another model with the same version
                number do not use the embeddings.

        Raises:
            StoreError: A number is not positive, the identifier is not allowed or sorts before a
                published one, a living writer holds it, or the store cannot be written.
        """

    def upsert(
        self,
        model_version: int,
        generation: str,
        keys: Sequence[str],
        vectors: Matrix,
        event_times: Sequence[int],
    ) -> Upserted:
        """Replaces embeddings of the current generation by newer ones, which readers see at once.

        A newer event wins; at equal times the later call (in one call: the later row). The entries
        are in the generation's overlay, which `rollback` and `condemn` drop.

        Args:
            model_version: Model version of the embeddings.
            generation: Identifier of the generation that they belong to.
            keys: Task keys ``[n]``.
            vectors: Embeddings ``[n, D]``.
            event_times: Milliseconds of each task's last interaction ``[n]``.

        Raises:
            NotCurrentError: Another generation is current: adapt again from its data.
            StoreError: Wrong shapes, values that are not finite, or the store cannot be reached.
        """

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """Removes task keys from every generation and overlay of every model version.

        Also removes the keys of nested definitions that begin with them. The keys stay out of the
        store permanently. Readers answer "not found" from the first step on. If a call is killed,
        another call with the same keys completes it.

        Returns:
            Where keys were removed.

        Raises:
            UnconfirmedErasureError: The keys are erased, but no replica has confirmed it.
        """

    def search(self, keys: Sequence[str]) -> list[Place]:
        """The places where the store holds these task keys; readers may already not find them.

        Includes keys of nested definitions that begin with them.
        """

    def erased(self) -> frozenset[bytes]:
        """Digests of all keys that were erased (`tfrec_limaml.store.erasure.key_digest`)."""

    def current(self, model_version: int) -> Generation | None:
        """The generation that readers see, or None."""

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """All generations, oldest first."""

    def rollback(
        self, model_version: int, identifier: str | None = None, expected: str | None = None
    ) -> Generation:
        """Makes another published generation current.

        By default this is the newest one before the current one that is not condemned. Nothing
        changes if `expected` is given and another generation is current.

        Returning to an earlier generation condemns the one that was current. The generation that
        becomes current is no longer condemned. The overlays of both are dropped.

        Raises:
            StoreError: There is no such generation, or none before the current one; its data are
                gone; another process changed the generations meanwhile, or the current one is not
                `expected`; or the store cannot be written.
        """

    def condemn(self, model_version: int, identifier: str) -> Generation:
        """Marks a generation as bad; the current one cannot be condemned.

        `prune` does not count it among those to keep, and `rollback` does not choose it by default.

        Raises:
            StoreError: There is no such generation, it is current, another process changed the
                generations meanwhile, or the store cannot be written.
        """

    def prune(
        self, model_version: int, keep: int = KEEP, grace_seconds: float = GRACE_SECONDS
    ) -> list[str]:
        """Removes condemned generations, and those beyond the newest `keep` others.

        Never removes one that is younger than `grace_seconds`, whatever `keep` is. The current one
        is removed only if `keep` is 0: ``keep=0, grace_seconds=0`` removes all generations of a
        model version which is no longer served.

        Returns:
            The identifiers of the removed generations.

        Raises:
            StoreError: `keep` or `grace_seconds` is negative, another process changed the
                generations meanwhile, or the store cannot be written.
        """
