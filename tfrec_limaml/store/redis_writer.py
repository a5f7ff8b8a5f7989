"""The Redis backend's writer: one hash for one generation."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import generation_rules, redis_overlay, values
from tfrec_limaml.store.base import EventTimes, Generation, Matrix
from tfrec_limaml.store.erasure import ErasedFilter
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_connection import ERRORS
from tfrec_limaml.store.single_use import SingleUse

if TYPE_CHECKING:
    from tfrec_limaml.store.redis_store import RedisStore

_WRITING_TTL_SECONDS = 24 * 3600
_FIELDS_PER_COMMAND = 512
_COMMANDS_PER_ROUND_TRIP = 32


class RedisWriter(SingleUse):
    """Writes one generation into its own hash; see `GenerationWriter`."""

    def __init__(self, store: RedisStore, record: Record) -> None:
        self.identifier = record.identifier
        self._store = store
        self._record = record
        self._filter = ErasedFilter(store.catalog.tombstones())
        self._data = store.data_key(record.model_version, record.identifier)
        self._lease = store.key(record.model_version, f"writer:{record.identifier}")
        self._token = secrets.token_hex(16).encode()
        self._open = True
        if not store.client.set(self._lease, self._token, nx=True, px=store.lease_ms):
            self._open = False
            raise StoreError(
                f"generation {record.identifier!r} is held by another process that is still "
                "writing; wait for it, or stop it"
            )
        store.client.unlink(self._data)
        store.client.hset(self._data, mapping={values.HEADER: record.header})
        store.client.expire(self._data, _WRITING_TTL_SECONDS)

    def put(self, keys: Sequence[str], embeddings: Matrix) -> None:
        """See `GenerationWriter.put`."""
        encoded = values.encode_keys(keys)
        written = values.encode_values(keys, encoded, embeddings, self._record)
        rows = self._filter.without_erased(encoded, written)
        fields, stored = list(rows), list(rows.values())
        step = _FIELDS_PER_COMMAND * _COMMANDS_PER_ROUND_TRIP
        with self._store.errors():
            for start in range(0, len(fields), step):
                self._renew()
                pipeline = self._store.client.pipeline(transaction=False)
                for i in range(start, min(start + step, len(fields)), _FIELDS_PER_COMMAND):
                    part = slice(i, i + _FIELDS_PER_COMMAND)
                    pipeline.hset(
                        self._data, mapping=dict(zip(fields[part], stored[part], strict=True))
                    )
                pipeline.expire(self._data, _WRITING_TTL_SECONDS)
                pipeline.execute()

    def publish(
        self, expected_count: int | None = None, event_times: EventTimes | None = None
    ) -> Generation:
        """See `GenerationWriter.publish`; the record, the pointer and the TTL change in one
        transaction.
        """
        store = self._store
        with store.errors():
            self._renew()
            # First: an erasure also removes keys from unpublished data, which changes their number.
            redis_overlay.check_tombstones(store, self._record, self._filter.tombstones)
            count = int(store.client.hlen(self._data)) - 1  # without the header
            generation_rules.check_count(
                self.identifier, count, expected_count, self._filter.left_out
            )
            record = dataclasses.replace(self._record, count=count, published=time.time())
            record = redis_overlay.publish(
                store,
                record,
                event_times or self._filter.opening_times,
                self._filter.tombstones,
                self._finish,
            )
        self._open = False
        return record.generation(current=True)

    def _finish(self, pipeline: Any, record: Record) -> None:
        """Adds the commands that publish the record to a transaction."""
        store, version = self._store, record.model_version
        pipeline.sadd(f"{store.prefix}:versions", version)
        pipeline.hset(store.key(version, "generations"), self.identifier, record.to_bytes())
        pipeline.pexpire(self._data, store.ttl_ms)
        pipeline.set(store.key(version, "current"), record.to_bytes(), px=store.ttl_ms)
        pipeline.delete(self._lease)

    def abort(self) -> None:
        """See `GenerationWriter.abort`.

        On an unreachable server the data expire.
        """
        if self._open:
            self._open = False
            with contextlib.suppress(*ERRORS):
                if self._store.client.get(self._lease) == self._token:
                    self._store.client.unlink(self._data)
                    self._store.client.delete(self._lease)

    def _renew(self) -> None:
        self._check_open()
        if self._store.client.get(self._lease) != self._token:
            self._open = False
            raise StoreError(
                f"the lease on generation {self.identifier!r} expired between two writes; start "
                f"again, if necessary with a longer lease"
            )
        self._store.client.pexpire(self._lease, self._store.lease_ms)
