"""The Redis backend's writer: one hash for one generation."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import generation_rules, redis_take_over, values
from tfrec_limaml.store.base import EventTimes, Generation, Matrix
from tfrec_limaml.store.erasure import ErasedFilter
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_catalog import FIELDS_PER_COMMAND, RedisCatalog
from tfrec_limaml.store.redis_errors import ERRORS
from tfrec_limaml.store.redis_eviction import warn_of_eviction
from tfrec_limaml.store.redis_overlay import check_tombstones, run_watched
from tfrec_limaml.store.single_use import SingleUse

_WRITING_TTL_SECONDS = 24 * 3600
_COMMANDS_PER_ROUND_TRIP = 32


class RedisWriter(SingleUse):
    """Writes one generation into its own hash; see `GenerationWriter`.

    Args:
        catalog: The store's catalog.
        record: Record of the new generation.
        ttl_ms: Time to live of the published generation, in milliseconds.
        lease_ms: Milliseconds without a `put` after which the writer counts as dead.
        errors: Returns a context that converts the client's errors.

    Raises:
        StoreError: Another writer holds the generation.
    """

    def __init__(
        self,
        catalog: RedisCatalog,
        record: Record,
        *,
        ttl_ms: int,
        lease_ms: int,
        errors: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.identifier = record.identifier
        self._catalog, self._client = catalog, catalog.client
        self._record = record
        self._ttl_ms, self._lease_ms = ttl_ms, lease_ms
        self._errors = errors
        self._filter = ErasedFilter(catalog.tombstones())
        self._data = catalog.data_key(record.model_version, record.identifier)
        self._lease = catalog.key(record.model_version, f"writer:{record.identifier}")
        self._token = secrets.token_hex(16).encode()
        self._open = True
        if not self._take_lease():
            self._open = False
            raise StoreError(
                f"generation {record.identifier!r} is held by another process that is still "
                "writing; wait for it, or stop it"
            )
        try:
            run_watched(self._client, self._begin)
        except BaseException:
            self.abort()
            raise

    def _begin(self, pipeline: Any) -> None:
        """Replaces the remains of a dead writer by the header.

        One watched transaction, as in `publish`: an account without the right to it fails here,
        before all work.
        """
        pipeline.watch(self._data)
        pipeline.multi()
        pipeline.unlink(self._data)
        pipeline.hset(self._data, mapping={values.HEADER: self._record.header})
        pipeline.expire(self._data, _WRITING_TTL_SECONDS)
        pipeline.execute()

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """See `GenerationWriter.put`."""
        encoded = values.encode_keys(keys)
        written = values.encode_values(keys, encoded, embeddings, self._record)
        rows = self._filter.without_erased(encoded, written)
        fields, stored = list(rows), list(rows.values())
        step = FIELDS_PER_COMMAND * _COMMANDS_PER_ROUND_TRIP
        with self._errors():
            for start in range(0, len(fields), step):
                self._renew()
                pipeline = self._client.pipeline(transaction=False)
                for i in range(start, min(start + step, len(fields)), FIELDS_PER_COMMAND):
                    part = slice(i, i + FIELDS_PER_COMMAND)
                    pipeline.hset(
                        self._data, mapping=dict(zip(fields[part], stored[part], strict=True))
                    )
                pipeline.expire(self._data, _WRITING_TTL_SECONDS)
                pipeline.execute()

    def publish(
        self, expected_count: int | None = None, event_times: EventTimes | None = None
    ) -> Generation:
        """See `GenerationWriter.publish`.

        The record, the pointer and the TTL change in one transaction. Warns if the server may evict
        the generation.
        """
        with self._errors():
            self._renew()
            # Before the count: an erasure also removes keys from unpublished data.
            check_tombstones(self._catalog, self._record, self._filter.tombstones)
            count = int(self._client.hlen(self._data)) - 1  # without the header
            generation_rules.check_count(
                self.identifier, count, expected_count, self._filter.left_out
            )
            record = dataclasses.replace(self._record, count=count, published=time.time())
            record = redis_take_over.publish(
                self._catalog,
                record,
                event_times or self._filter.opening_times,
                self._filter.tombstones,
                self._ttl_ms,
                self._finish,
            )
        self._open = False
        warn_of_eviction(self._catalog)
        return record.generation(current=True)

    def _finish(self, pipeline: Any, record: Record) -> None:
        """Adds the commands that publish the record to a transaction."""
        catalog, version = self._catalog, record.model_version
        pipeline.sadd(catalog.versions_key, version)
        pipeline.hset(catalog.key(version, "generations"), self.identifier, record.to_bytes())
        pipeline.pexpire(self._data, self._ttl_ms)
        pipeline.set(catalog.key(version, "current"), record.to_bytes(), px=self._ttl_ms)
        pipeline.delete(self._lease)

    def abort(self) -> None:
        """See `GenerationWriter.abort`.

        If the server cannot be reached, the data expire later.
        """
        if self._open:
            self._open = False
            with contextlib.suppress(*ERRORS):
                if self._client.get(self._lease) == self._token:
                    self._client.unlink(self._data)
                    self._client.delete(self._lease)

    def _take_lease(self) -> bool:
        """Takes the lease; False if another writer holds it.

        The client repeats a command that was not answered in time: if the server executed the first
        one, the second finds this writer's own lease.
        """
        taken = self._client.set(self._lease, self._token, nx=True, px=self._lease_ms)
        return bool(taken) or self._client.get(self._lease) == self._token

    def _renew(self) -> None:
        self._check_open()
        if self._client.get(self._lease) != self._token:
            self._open = False
            raise StoreError(
                f"the lease on generation {self.identifier!r} expired between two writes, or the "
                "server was restarted without its data; start again, with a longer lease if it "
                "expired"
            )
        self._client.pexpire(self._lease, self._lease_ms)
