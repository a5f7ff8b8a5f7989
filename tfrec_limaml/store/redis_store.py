"""The Redis backend: one hash per generation, one pointer per model version.

Keys, below a prefix (``limaml`` by default)::

    <prefix>:<version>:current               record (JSON) of the generation that readers see
    <prefix>:<version>:generations           hash: identifier -> record of every published one
    <prefix>:<version>:data:<identifier>     hash: task key -> vector and checksum
    <prefix>:<version>:writer:<identifier>   token of a living writer, expires with its lease
    <prefix>:<version>:overlay:<identifier>:<token>    hash: task key -> entry that was upserted
    <prefix>:<version>:overlay:<identifier>:<token>:keys    list of these task keys
    <prefix>:versions                        set of model versions
    <prefix>:erased, <prefix>:erasing        sets of all tombstones, and of unfinished erasures
    <prefix>:marker                          written at the end of an erasure, for replicas

One HMGET reads one hash, hence one generation; one round trip reads the pointer and the values of
the generation that was current at the last read. Every data hash expires: an abandoned one after a
day, a published one after ``ttl``, together with the pointer to it.

In a Redis Cluster all keys of a store have one hash tag, ``{<prefix>}``, and so share one slot:
only then can they change together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import base, generation_rules, redis_erasure, redis_overlay, values
from tfrec_limaml.store.base import Generation, LookUpResult, Place, Upserted
from tfrec_limaml.store.generation_record import Record, check_dtype
from tfrec_limaml.store.redis_catalog import ChangedMeanwhileError, RedisCatalog
from tfrec_limaml.store.redis_connection import (
    CLUSTER,
    SENTINEL,
    SENTINEL_PASSWORD,
    TLS_OPTIONS,
    connect,
    secret_of,
)
from tfrec_limaml.store.redis_errors import readable
from tfrec_limaml.store.redis_overlay_reader import RedisOverlayReader
from tfrec_limaml.store.redis_query import RedisQuery
from tfrec_limaml.store.redis_writer import RedisWriter
from tfrec_limaml.wording import counted

_ATTEMPTS = 10
_MISSING_DATA = (
    "the data of generation {0.identifier!r} of model version {0.model_version} are gone from "
    "Redis (deleted, evicted or replaced), with {members}: publish again, or roll back"
)
_NUMBERS = ("ttl", "lease", "timeout")
#: Longest time for an option: Redis counts milliseconds in 64 bits.
_LONGEST_SECONDS = 1e11


class RedisStore(base.Closing):
    """Embedding store in Redis; see the module's text.

    Args:
        url: ``redis://HOST:PORT/DB``, ``rediss://`` (TLS), ``unix://PATH`` or
            ``redis-sentinel://HOST:PORT,.../SERVICE/DB``, ``redis+cluster://HOST:PORT,...``.
        prefix: First part of every key; in a cluster it becomes their hash tag.
        dtype: ``"float32"`` or ``"float16"`` for new generations.
        ttl: Seconds after which a published generation expires, in case its job no longer runs.
        lease: Seconds without a `put` after which a writer counts as dead.
        timeout: Seconds to wait for the server.
        db: Number of the database, for ``unix://``.
        tls_ca: Authorities to trust (a PEM file), for ``rediss://``.
        tls_certificate: Client certificate, for mutual TLS.
        tls_key: Client key, for mutual TLS.
        sentinel_user: User of the sentinels, if they have one. The address has the master's user.
        sentinel_password: Password of the sentinels.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "limaml",
        dtype: str = "float32",
        ttl: float = 30 * 86_400.0,
        lease: float = 900.0,
        timeout: float = 5.0,
        db: str | None = None,
        tls_ca: str | None = None,
        tls_certificate: str | None = None,
        tls_key: str | None = None,
        sentinel_user: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        for name, value in zip(_NUMBERS, (ttl, lease, timeout), strict=True):
            if not 0 < value < _LONGEST_SECONDS:
                raise StoreError(
                    f"{name} must be a positive number of seconds (below {_LONGEST_SECONDS:g}), "
                    f"received {value}"
                )
        # A cluster changes keys together only if they have the same hash tag.
        cluster = url.partition(":")[0] in CLUSTER and "{" not in prefix
        self.prefix = f"{{{prefix}}}" if cluster else prefix
        self.dtype = check_dtype(dtype)
        self._ttl_ms = math.ceil(ttl * 1000)
        self._lease_ms = math.ceil(lease * 1000)
        self._url = url
        if sentinel_password is None and url.partition(":")[0] in SENTINEL:
            sentinel_password = os.environ.get(SENTINEL_PASSWORD) or None
        self._secrets = [secret for secret in (secret_of(url), sentinel_password) if secret]
        files = zip(TLS_OPTIONS, (tls_ca, tls_certificate, tls_key), strict=True)
        tls = {name: path for name, path in files if path is not None}
        account = {"username": sentinel_user, "password": sentinel_password}
        sentinel = {name: value for name, value in account.items() if value is not None}
        self.client = connect(url, timeout, tls, db, sentinel)
        self.catalog = RedisCatalog(self.client, self.prefix)
        self._last: dict[int, Record] = {}
        self._overlays: dict[int, tuple[str, RedisOverlayReader]] = {}

    @classmethod
    def from_options(cls, url: str, options: Mapping[str, str]) -> RedisStore:
        """A store with the options of a store address, as text."""
        arguments: dict[str, Any] = dict(options)
        for name in arguments.keys() & set(_NUMBERS):
            try:
                arguments[name] = float(arguments[name])
            except ValueError as error:
                raise StoreError(
                    f"store option {name} must be a number of seconds, received {arguments[name]!r}"
                ) from error
        return cls(url, **arguments)

    def get_many(self, keys: Sequence[str], model_version: int) -> LookUpResult:
        """See `EmbeddingStore.get_many`; one round trip while the current generation stays the
        same.
        """
        fields = values.encode_look_up(keys)
        misses = 0
        with self.errors():
            for _ in range(_ATTEMPTS):
                guess, query = self._last.get(model_version), None
                pipeline = self.client.pipeline(transaction=False)
                pipeline.get(self.catalog.key(model_version, "current"))
                if guess is not None and fields:
                    query = RedisQuery(
                        self.catalog, guess, fields, self._overlay_of(guess), pipeline
                    )
                pointer, *answers = pipeline.execute()
                if pointer is None:
                    return values.empty_result(len(keys))
                record = Record.from_bytes(pointer).check_version(model_version)
                if record != guess:
                    self._last[model_version] = record
                elif query is None:
                    return values.decode_values([], [], record)
                elif (found := query.answer(answers)) is not None:
                    return found
                else:  # the data are gone, or the pointer moved during this round trip
                    misses += 1
                    if misses == 2:
                        raise StoreError(
                            _MISSING_DATA.format(record, members=counted(record.count, "member"))
                        )
        raise StoreError(
            f"the current generation of model version {model_version} changed {_ATTEMPTS} times "
            "during one read; try again"
        )

    def _overlay_of(self, record: Record) -> RedisOverlayReader | None:
        """The reader of a generation's overlay; None if it has none."""
        if not record.overlay:
            return None
        token, reader = self._overlays.get(record.model_version, ("", None))
        if token != record.overlay or reader is None:
            reader = RedisOverlayReader(self.catalog, record)
            self._overlays[record.model_version] = record.overlay, reader
        return reader

    def upsert(
        self,
        model_version: int,
        generation: str,
        keys: Sequence[str],
        vectors: npt.ArrayLike,
        event_times: Sequence[int],
    ) -> Upserted:
        """See `EmbeddingStore.upsert`."""
        with self.errors():
            return redis_overlay.upsert(
                self.catalog, model_version, generation, keys, vectors, event_times
            )

    def erase(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.erase`."""
        with self.errors():
            return redis_erasure.erase(self.catalog, keys)

    def search(self, keys: Sequence[str]) -> list[Place]:
        """See `EmbeddingStore.search`."""
        with self.errors():
            return redis_erasure.search(self.catalog, keys)

    def new_generation(
        self, model_version: int, embedding_dim: int, identifier: str | None = None, model: str = ""
    ) -> RedisWriter:
        """See `EmbeddingStore.new_generation`; refused while a living writer holds the same
        identifier.
        """
        generation_rules.check_new(model_version, embedding_dim)
        with self.errors():
            self.catalog.remove_dead(model_version)
            published = [r.identifier for r in self.catalog.records(model_version)]
            record = generation_rules.new_record(
                model_version, embedding_dim, self.dtype, identifier, published, model
            )
            return RedisWriter(
                self.catalog,
                record,
                ttl_ms=self._ttl_ms,
                lease_ms=self._lease_ms,
                errors=self.errors,
            )

    def erased(self) -> frozenset[bytes]:
        """See `EmbeddingStore.erased`."""
        with self.errors():
            return self.catalog.tombstones().digests

    def current(self, model_version: int) -> Generation | None:
        """See `EmbeddingStore.current`."""
        with self.errors():
            record = self.catalog.current(model_version)
            return None if record is None else self.catalog.describe([record], record.identifier)[0]

    def generations(self, model_version: int | None = None) -> list[Generation]:
        """See `EmbeddingStore.generations`; unpublished ones of living writers are not listed."""
        with self.errors():
            versions = self.catalog.versions() if model_version is None else [model_version]
            result = []
            for version in versions:
                result += self.catalog.describe(*self.catalog.records_and_current(version))
            return result

    def rollback(
        self, model_version: int, identifier: str | None = None, expected: str | None = None
    ) -> Generation:
        """See `EmbeddingStore.rollback`."""
        with self.errors():
            records, current = self.catalog.records_and_current(model_version)
            generation_rules.check_expected(current, expected, model_version)
            target = generation_rules.rollback_target(records, current, identifier, model_version)
            ttl_ms = self.client.pttl(self.catalog.data_key(model_version, target.identifier))
            if ttl_ms == -2:  # no such key
                raise StoreError(
                    f"generation {target.identifier!r} of model version {model_version} has "
                    "expired (ttl) or was deleted; run the embedding job"
                )
            target, changed = generation_rules.after_rollback(records, current, target, time.time())
            pointer = (target, ttl_ms if ttl_ms > 0 else None)
            self.catalog.change(model_version, current, changed, known=records, pointer=pointer)
            return target.generation(current=True)

    def condemn(self, model_version: int, identifier: str) -> Generation:
        """See `EmbeddingStore.condemn`."""
        with self.errors():
            records, current = self.catalog.records_and_current(model_version)
            record = generation_rules.condemn_target(records, current, identifier, model_version)
            record = dataclasses.replace(record, condemned=time.time(), overlay="")
            self.catalog.change(model_version, current, [record], known=records)
            return record.generation(current=False)

    def prune(
        self, model_version: int, keep: int = base.KEEP, grace_seconds: float = base.GRACE_SECONDS
    ) -> list[str]:
        """See `EmbeddingStore.prune`; also removes remains of dead writers."""
        with self.errors():
            self.catalog.remove_dead(model_version)
            for _ in range(_ATTEMPTS - 1):
                with contextlib.suppress(ChangedMeanwhileError):  # by an erasure, for example
                    return self._prune(model_version, keep, grace_seconds)
            return self._prune(model_version, keep, grace_seconds)

    def _prune(self, model_version: int, keep: int, grace_seconds: float) -> list[str]:
        records, current = self.catalog.records_and_current(model_version)
        pruned = generation_rules.prune_targets(records, current, keep, grace_seconds)
        if pruned:
            self.catalog.remove(model_version, current, pruned, known=records)
        return [record.identifier for record in pruned]

    def close(self) -> None:
        """Closes the connections; a later call opens them again."""
        self.client.close()

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Converts the client's errors to `StoreError`; see `redis_errors.readable`."""
        return readable(self._url, self._secrets)
