"""Overlays of the Redis backend: a second hash beside a generation's, and the list of its keys.

Changes are optimistic: they watch the keys that they depend on (pointer, tombstones, overlay), and
start again if one of these has changed. An upsert is therefore applied to the current generation,
or not at all.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy.typing as npt
import redis

from tfrec_limaml.errors import ErasedMeanwhileError, StoreError
from tfrec_limaml.store import generation_rules, overlay
from tfrec_limaml.store.base import Upserted
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_catalog import FIELDS_PER_COMMAND, RedisCatalog

_Result = TypeVar("_Result")
_ATTEMPTS, _LONGEST_WAIT_SECONDS = 200, 0.05
_SCANNED_PER_COMMAND = 1000


def run_watched(client: Any, work: Callable[[Any], _Result]) -> _Result:
    """Calls `work` with a pipeline, on which it watches keys and executes commands.

    Calls it again while other writers change the keys in between. Returns the result of `work`.

    Raises:
        StoreError: The keys changed in all attempts.
    """
    for _ in range(_ATTEMPTS):
        with client.pipeline(transaction=True) as pipeline:
            try:
                return work(pipeline)
            except redis.WatchError:
                time.sleep(random.uniform(0, _LONGEST_WAIT_SECONDS))
    raise StoreError(f"other writers changed the store during {_ATTEMPTS} attempts; try again")


def upsert(
    catalog: RedisCatalog,
    model_version: int,
    generation: str,
    keys: Sequence[str],
    vectors: npt.ArrayLike,
    event_times: Sequence[int],
) -> Upserted:
    """See `EmbeddingStore.upsert`."""

    def work(pipeline: Any) -> Upserted:
        pipeline.watch(catalog.key(model_version, "current"), catalog.erased_key)
        record = generation_rules.check_upsert(
            catalog.current(model_version), generation, model_version
        )
        tombstones = catalog.tombstones()
        entries, counts = overlay.entries_of(keys, vectors, event_times, record, tombstones)
        new = list(entries)
        if record.overlay:
            pipeline.watch(catalog.overlay_key(record))
            stored = _read_fields(catalog.client, catalog.overlay_key(record), list(entries))
            new = [key for key, old in zip(entries, stored, strict=True) if old is None]
            entries, counts = overlay.newer_entries(entries, stored, counts, record)
        if not entries:
            return counts
        # Milliseconds to live; negative if the data do not expire.
        ttl_ms = catalog.client.pttl(catalog.data_key(model_version, generation))
        pipeline.multi()
        new_record = record if record.overlay else with_token(record)
        log = new if record.overlay else [record.header, *new]
        write(pipeline, catalog, new_record, entries, log, ttl_ms)
        if not record.overlay:
            generations_key = catalog.key(model_version, "generations")
            pipeline.hset(generations_key, generation, new_record.to_bytes())
            pipeline.set(catalog.key(model_version, "current"), new_record.to_bytes(), keepttl=True)
        pipeline.execute()
        return counts

    return run_watched(catalog.client, work)


def check_tombstones(catalog: RedisCatalog, record: Record, tombstones: Tombstones) -> None:
    """Raises `ErasedMeanwhileError` if the tombstones have changed."""
    if catalog.client.scard(catalog.erased_key) != len(tombstones):
        raise ErasedMeanwhileError(generation_rules.ERASED_MEANWHILE.format(record.identifier))


def with_token(record: Record) -> Record:
    """`record` with the token of a new overlay."""
    return dataclasses.replace(record, overlay=overlay.new_token())


def overlay_entries(client: Any, key: str) -> Iterator[tuple[bytes, bytes]]:
    """The entries of an overlay, in parts: one command for all would block the server.

    An entry may come twice. Watch the key, for entries that are added meanwhile may be missing.
    """
    entries: Iterator[tuple[bytes, bytes]] = client.hscan_iter(key, count=_SCANNED_PER_COMMAND)
    return entries


def _read_fields(client: Any, key: str, fields: list[bytes]) -> list[bytes | None]:
    values: list[bytes | None] = []
    for start in range(0, len(fields), FIELDS_PER_COMMAND):
        values += client.hmget(key, fields[start : start + FIELDS_PER_COMMAND])
    return values


def write(
    pipeline: Any,
    catalog: RedisCatalog,
    record: Record,
    entries: overlay.Entries,
    log: list[bytes],
    ttl_ms: int,
) -> None:
    """Adds the commands that write entries to an overlay, and items to its log.

    The overlay expires with the data.
    """
    key, rows = catalog.overlay_key(record), list(entries.items())
    for start in range(0, len(rows), FIELDS_PER_COMMAND):
        pipeline.hset(key, mapping=dict(rows[start : start + FIELDS_PER_COMMAND]))
    for start in range(0, len(log), FIELDS_PER_COMMAND):
        pipeline.rpush(catalog.log_key(record), *log[start : start + FIELDS_PER_COMMAND])
    if ttl_ms > 0:
        pipeline.pexpire(key, ttl_ms)
        pipeline.pexpire(catalog.log_key(record), ttl_ms)
