"""The LMDB backend: a folder, no server.

Layout::

    <folder>/catalog/                       LMDB: records of published generations,
                                            one pointer per model version
    <folder>/<version>/<identifier>/        LMDB: task key -> vector; immutable once published
    <folder>/<version>/<identifier>.lock    held (flock) by a living writer; if nobody holds
                                            it, the writer is dead and its data are removed
    <folder>/<version>/<identifier>~<token>/   a generation that was rewritten without erased keys
    <folder>/overlays/                      upserted embeddings; see `lmdb_overlay`
    <folder>/writers.lock                   held while pointers move and overlays change

A generation becomes visible by one write transaction on the catalog. Its own environment never
changes afterwards, so readers open it without locks, one `get_many` reads one generation, and
removing it frees its disk space at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import (
    base,
    generation_rules,
    kept_vectors,
    lmdb_environment,
    overlay,
    values,
)
from tfrec_limaml.store.base import EventTimes, Generation, LookUpResult, Place, Upserted
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.generation_record import Record, check_dtype
from tfrec_limaml.store.lmdb_catalog import LmdbCatalog
from tfrec_limaml.store.lmdb_erasure import LmdbErasure
from tfrec_limaml.store.lmdb_generations import LmdbGenerations
from tfrec_limaml.store.lmdb_overlay import LmdbOverlays
from tfrec_limaml.store.lmdb_writer import LmdbWriter


class LmdbStore(base.Closing):
    """Embedding store in a folder; see the module's text.

    Args:
        folder: Created when the first generation is written.
        dtype: ``"float32"`` or ``"float16"`` for new generations.
    """

    #: Reads use this machine's memory and disk: a ranker needs no time limit.
    local = True

    def __init__(self, folder: str | Path, dtype: str = "float32") -> None:
        # One path per folder: LMDB refuses to open an environment twice in a process.
        self.folder = Path(folder).resolve()
        self.dtype = check_dtype(dtype)
        self._environments = lmdb_environment.Environments()
        self._kept = kept_vectors.KeptGenerations()
        self._catalog = LmdbCatalog(self.folder / "catalog", self._environments)
        self._overlays = LmdbOverlays(self.folder, self._catalog, self._environments)
        self._generations = LmdbGenerations(self.folder, self._catalog, self._environments)
        self._erasure = LmdbErasure(self.folder, self._catalog, self._overlays, self._generations)
        #: A context in which no erasure begins.
        self.without_erasures = self._erasure.held_off

    def get_many(self, keys: Sequence[str], model_version: int) -> LookUpResult:
        """See `EmbeddingStore.get_many`."""
        last_error: BaseException | None = None
        # Repeats the look-up if the generation was pruned between reading the pointer and opening.
        for _ in range(3):
            record = self._catalog.current(model_version)
            if record is None:
                return values.empty_result(len(keys))
            try:
                return self._read(record, keys)
            except lmdb.MemoryError as error:
                raise StoreError(
                    f"cannot map {self.folder}: {lmdb_environment.explained(error)}"
                ) from error
            except (OSError, lmdb.Error) as error:
                last_error = error
        raise StoreError(
            f"the current generation of model version {model_version} in {self.folder} is "
            f"damaged ({last_error}): roll back, or publish again"
        ) from last_error

    def _read(self, record: Record, keys: Sequence[str]) -> LookUpResult:
        """The vectors of keys in a generation and its overlay."""
        environment = self._generations.open(record)
        newer_entries: overlay.Entries = {}
        if record.overlay:
            newer_entries = self._overlays.read(record, values.encode_look_up(keys))

        def read(requested: Sequence[str]) -> LookUpResult:
            encoded = values.encode_look_up(requested)
            with environment.begin() as transaction:
                stored = (
                    overlay.merge_values(encoded, newer_entries, transaction.get, record)
                    if newer_entries
                    else list(map(transaction.get, encoded))
                )
            if record.erasing:
                stored = self._catalog.tombstones_of(encoded).hide(encoded, stored)
            return values.decode_values(encoded, stored, record)

        if len(keys) < kept_vectors.FROM_KEYS or record.erasing:
            return read(keys)
        data = self._generations.path(record), self._environments.followed
        cache = self._kept.vectors_of(record.model_version, data, record.embedding_dim)
        result = cache.get_many(keys, frozenset(map(bytes.decode, newer_entries)), read)
        result.model = record.model
        return result

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None, model: str = ""
    ) -> LmdbWriter:
        """See `EmbeddingStore.new_generation`.

        Refused while a living writer holds the same identifier.
        """
        generation_rules.check_new(model_version, embedding_dim)
        self._generations.remove_dead(model_version)
        published = [r.identifier for r in self._catalog.records(model_version)]
        record = generation_rules.new_record(
            model_version, embedding_dim, self.dtype, identifier, published, model
        )
        return LmdbWriter(
            self._generations.path(record), record, self._catalog.tombstones(), self.publish
        )

    def upsert(
        self,
        model_version: int,
        generation: str,
        keys: Sequence[str],
        vectors: npt.ArrayLike,
        event_times: Sequence[int],
    ) -> Upserted:
        """See `EmbeddingStore.upsert`."""
        return self._overlays.upsert(model_version, generation, keys, vectors, event_times)

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.erase`."""
        for version in self._generations.versions():
            self._generations.remove_dead(version)
        return self._erasure.erase(keys)

    def search(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.search`."""
        return self._erasure.search(keys)

    def erased(self) -> frozenset[bytes]:
        """See `EmbeddingStore.erased`."""
        return self._catalog.tombstones().digests

    def current(self, model_version: int) -> Generation | None:
        """See `EmbeddingStore.current`."""
        record = self._catalog.current(model_version)
        return None if record is None else self._generations.described(record, record.identifier)

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """See `EmbeddingStore.generations`; unpublished ones of living writers are not listed."""
        versions = self._generations.versions() if model_version is None else [model_version]
        result = []
        for version in versions:
            records, current = self._catalog.records_and_current(version)
            result += [self._generations.described(record, current) for record in records]
        return result

    def rollback(
        self, model_version: int, identifier: str | None = None, expected: str | None = None
    ) -> Generation:
        """See `EmbeddingStore.rollback`."""
        with self._overlays.writing():
            records, current = self._catalog.records_and_current(model_version)
            generation_rules.check_expected(current, expected, model_version)
            target = generation_rules.rollback_target(records, current, identifier, model_version)
            self._generations.open(target, "roll back to another one")
            target, changed = generation_rules.after_rollback(records, current, target, time.time())
            self._catalog.change(model_version, current, changed, pointer=target.identifier)
            self._overlays.remove_dead(model_version)
        return target.generation(current=True)

    def condemn(self, model_version: int, identifier: str) -> Generation:
        """See `EmbeddingStore.condemn`."""
        with self._overlays.writing():
            records, current = self._catalog.records_and_current(model_version)
            record = generation_rules.condemn_target(records, current, identifier, model_version)
            record = dataclasses.replace(record, condemned=time.time(), overlay="")
            self._catalog.change(model_version, current, [record])
            self._overlays.remove_dead(model_version)
        return record.generation(current=False)

    def prune(
        self, model_version: int, keep: int = base.KEEP, grace_seconds: float = base.GRACE_SECONDS
    ) -> list[str]:
        """See `EmbeddingStore.prune`; also removes remains of dead writers."""
        self._generations.remove_dead(model_version)
        with self._overlays.writing():
            records, current = self._catalog.records_and_current(model_version)
            pruned = generation_rules.prune_targets(records, current, keep, grace_seconds)
            if pruned:
                self._catalog.change(model_version, current, (), removed=pruned)
            for record in pruned:
                self._generations.drop(model_version, record.folder)
            self._overlays.remove_dead(model_version)
        return [record.identifier for record in pruned]

    def close(self) -> None:
        """Closes the files of the store; a later call opens them again."""
        self._kept.clear()
        self._environments.close()

    def publish(self, record: Record, event_times: EventTimes, tombstones: Tombstones) -> None:
        """Makes a finished generation current, after taking over newer overlay entries.

        `tombstones` are those of the store when its writer was opened.
        """
        with self._overlays.writing():
            record = self._overlays.take_over(record, event_times, tombstones)
            self._catalog.publish(record, len(tombstones))
            self._overlays.remove_dead(record.model_version)
