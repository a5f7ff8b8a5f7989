"""Erasure in the Redis backend: tombstones first, then deletion from all hashes.

Tombstones come first, and every generation's record makes readers check them. Then the fields are
deleted from all hashes, including those without a record. Finally the set of unfinished tombstones
is updated. If the process is killed, readers keep checking tombstones; the next erasure of the same
keys completes it. At the end, a replica confirms all this, if the server has any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tfrec_limaml.errors import UnconfirmedErasureError
from tfrec_limaml.store import values
from tfrec_limaml.store.base import Place
from tfrec_limaml.store.erasure import (
    all_matching,
    encode_distinct,
    is_erased,
    key_digest,
    nested_prefix,
)
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_catalog import FIELDS_PER_COMMAND, RedisCatalog, escape
from tfrec_limaml.store.redis_overlay import (
    overlay_entries,
    run_watched,
    with_token,
    write,
)
from tfrec_limaml.store.redis_replication import Confirmation

#: Maximum number of erased keys for which Redis searches the nested ones. For more, this module
#: checks all stored keys.
_MAX_PATTERNS = 4


def erase(catalog: RedisCatalog, keys: Sequence[str]) -> list[Place]:
    """See `EmbeddingStore.erase`."""
    client = catalog.client
    encoded_keys = encode_distinct(keys)
    if not encoded_keys:
        return []
    digests = list(map(key_digest, encoded_keys))
    confirmation = Confirmation(catalog)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.sadd(catalog.erased_key, *digests)
        pipeline.sadd(catalog.erasing_key, *digests)
        pipeline.execute()
    for version in catalog.versions():
        _set_erasing(catalog, version, True)
    places = []
    for place, key, fields in _hashes_with(catalog, encoded_keys):
        if place.part == "overlay":
            _rewrite_overlay(catalog, place, key, encoded_keys)
        for start in range(0, len(fields), FIELDS_PER_COMMAND):
            client.hdel(key, *fields[start : start + FIELDS_PER_COMMAND])
        places.append(place)
    client.srem(catalog.erasing_key, *digests)
    for version in catalog.versions():
        _set_erasing(catalog, version, False)
    if problem := confirmation.problem():
        raise UnconfirmedErasureError(f"the keys are erased, but {problem}", places)
    return places


def search(catalog: RedisCatalog, keys: Sequence[str]) -> list[Place]:
    """See `EmbeddingStore.search`."""
    return [place for place, _, _ in _hashes_with(catalog, encode_distinct(keys))]


def _hashes_with(
    catalog: RedisCatalog, encoded_keys: list[bytes]
) -> Iterator[tuple[Place, str, list[bytes]]]:
    """Every hash with any of the given keys: its description, its Redis key and these fields."""
    erased = frozenset(encoded_keys)
    for version in catalog.versions():
        for part in ("data", "overlay"):
            for identifier, key in catalog.hashes(version, part):
                fields = _fields(catalog.client, key, encoded_keys)
                if fields:
                    place = Place(
                        model_version=version,
                        generation=identifier,
                        part=part,
                        keys=len(fields),
                        matched=all_matching(fields, erased),
                    )
                    yield place, key, fields


def _fields(client: Any, key: str, encoded_keys: list[bytes]) -> list[bytes]:
    """The fields of a hash that the keys to erase include."""
    erased = frozenset(encoded_keys)
    if len(encoded_keys) > _MAX_PATTERNS:
        scanned = client.hscan_iter(key, count=1000)
        return sorted({field for field, _ in scanned if is_erased(field, erased)})
    fields = set()
    for start in range(0, len(encoded_keys), FIELDS_PER_COMMAND):
        part = encoded_keys[start : start + FIELDS_PER_COMMAND]
        stored = client.hmget(key, part)
        fields |= {field for field, value in zip(part, stored, strict=True) if value is not None}
    for erased_key in encoded_keys:
        pattern = escape(nested_prefix(erased_key).decode()) + "*"
        fields |= {field for field, _ in client.hscan_iter(key, match=pattern, count=1000)}
    return sorted(fields)


def _rewrite_overlay(
    catalog: RedisCatalog, place: Place, key: str, encoded_keys: list[bytes]
) -> None:
    """Replaces an overlay by one without the keys, also in its log."""
    erased, version = frozenset(encoded_keys), place.model_version
    generations, pointer = catalog.key(version, "generations"), catalog.key(version, "current")

    def work(pipeline: Any) -> None:
        pipeline.watch(pointer, generations, key)
        records = {r.identifier: r for r in catalog.records(version) if r.overlay}
        record = records.get(place.generation)
        stored = overlay_entries(catalog.client, key)
        entries = {k: v for k, v in stored if not is_erased(k, erased)}
        ttl_ms = catalog.client.pttl(key)
        current = catalog.current_name(version)
        pipeline.multi()
        if record is not None and catalog.overlay_key(record) == key:
            new_record = with_token(record) if entries else record.without_overlay()
            write(pipeline, catalog, new_record, entries, [record.header, *entries], ttl_ms)
            pipeline.hset(generations, new_record.identifier, new_record.to_bytes())
            if new_record.identifier == current:
                pipeline.set(pointer, new_record.to_bytes(), keepttl=True)
        pipeline.unlink(key)
        pipeline.unlink(catalog.log_key_of(key))
        pipeline.execute()

    run_watched(catalog.client, work)


def _set_erasing(catalog: RedisCatalog, version: int, erasing: bool) -> None:
    """Makes readers of a version's generations check tombstones, or stop checking.

    They do not stop while another erasure is unfinished. Also updates the numbers of members.
    """
    client = catalog.client

    def work(pipeline: Any) -> None:
        pointer = catalog.key(version, "current")
        generations = catalog.key(version, "generations")
        pipeline.watch(pointer, generations, catalog.erasing_key)
        if not erasing and client.scard(catalog.erasing_key):
            return
        changed = [_with_count(catalog, record, erasing) for record in catalog.records(version)]
        current = catalog.current_name(version)
        pipeline.multi()
        for record in changed:
            pipeline.hset(generations, record.identifier, record.to_bytes())
            if record.identifier == current:
                pipeline.set(pointer, record.to_bytes(), keepttl=True)
        pipeline.execute()

    run_watched(client, work)


def _with_count(catalog: RedisCatalog, record: Record, erasing: bool) -> Record:
    data = catalog.data_key(record.model_version, record.identifier)
    fields = int(catalog.client.hlen(data))
    if record.format >= 2:
        fields -= int(catalog.client.hexists(data, values.HEADER))
    count = fields if fields > 0 and not erasing else record.count
    return dataclasses.replace(record, erasing=erasing, count=count)
