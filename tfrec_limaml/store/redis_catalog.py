"""The generations of a Redis store, and the current ones."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.base import Generation
from tfrec_limaml.store.catalog import Catalog
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.generation_record import Record, record_of_pointer

# Readers may still be in a look-up that began before an overlay was dropped.
_OVERLAY_REMAINS_MS = 60_000
_FREEING_ATTEMPTS, _FREEING_SECONDS = 50, 0.1
#: Largest number of a hash's fields in one command, which blocks the server while it runs.
FIELDS_PER_COMMAND = 512


class ChangedMeanwhileError(StoreError):
    """Another process has published, rolled back or erased since the records were read."""


class RedisCatalog(Catalog):
    """Records and pointers below a prefix; the keys are described in `redis_store`.

    Args:
        client: A Redis client; its errors are not caught.
        prefix: First part of every key.
    """

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    def key(self, model_version: int, name: str) -> str:
        """A key of one model version."""
        return f"{self.prefix}:{model_version}:{name}"

    def data_key(self, model_version: int, identifier: str) -> str:
        """The hash that holds one generation."""
        return self.key(model_version, f"data:{identifier}")

    def overlay_key(self, record: Record) -> str:
        """The hash that holds a generation's overlay."""
        return self.key(record.model_version, f"overlay:{record.identifier}:{record.overlay}")

    def log_key(self, record: Record) -> str:
        """The list of an overlay's keys, in the order of arrival.

        Its first item is the generation's header.
        """
        return self.log_key_of(self.overlay_key(record))

    def log_key_of(self, overlay_key: str) -> str:
        """The list of keys of the overlay in this hash."""
        return f"{overlay_key}:keys"

    @property
    def versions_key(self) -> str:
        """The set of model versions."""
        return f"{self.prefix}:versions"

    @property
    def erased_key(self) -> str:
        """The set of tombstones."""
        return f"{self.prefix}:erased"

    @property
    def erasing_key(self) -> str:
        """The set of tombstones of unfinished erasures."""
        return f"{self.prefix}:erasing"

    @property
    def marker_key(self) -> str:
        """A value that is written for replicas to confirm; see `redis_replication`."""
        return f"{self.prefix}:marker"

    def tombstones(self) -> Tombstones:
        """The keys that were erased."""
        return Tombstones(self.client.smembers(self.erased_key))

    def versions(self) -> list[int]:
        """All model versions that were ever published."""
        return sorted(map(int, self.client.smembers(self.versions_key)))

    def hashes(self, model_version: int, kind: str) -> list[tuple[str, str]]:
        """Identifier and Redis key of every hash of a kind (``data`` or ``overlay``).

        Includes hashes without a record.
        """
        stem = self.key(model_version, f"{kind}:")
        matching = self.client.scan_iter(match=f"{escape(stem)}*", count=1000, _type="HASH")
        names = sorted({name.decode() for name in matching})
        return [(name.removeprefix(stem).partition(":")[0], name) for name in names]

    def current(self, model_version: int) -> Record | None:
        """The record that readers see; raises `StoreError` if it belongs to another version."""
        content = self.client.get(self.key(model_version, "current"))
        return record_of_pointer(content, model_version)

    def describe(self, records: Sequence[Record], current: str | None) -> list[Generation]:
        """The public view of records; those whose data are gone are lost."""
        pipeline = self.client.pipeline(transaction=False)
        for record in records:
            pipeline.exists(self.data_key(record.model_version, record.identifier))
        return [
            record.generation(record.identifier == current, lost=not exists)
            for record, exists in zip(records, pipeline.execute(), strict=True)
        ]

    def records(self, model_version: int) -> list[Record]:
        """Published generations, oldest first."""
        records = [
            Record.from_bytes(c) for c in self.client.hvals(self.key(model_version, "generations"))
        ]
        return sorted(records, key=lambda record: record.identifier)

    def remove_dead(self, model_version: int) -> None:
        """Removes data that are neither published nor held by a writer's lease."""
        published = {record.identifier for record in self.records(model_version)}
        stem = self.data_key(model_version, "")
        for name in self.client.scan_iter(match=f"{escape(stem)}*", count=1000):
            identifier = name.decode().removeprefix(stem)
            if identifier in published or self.client.exists(
                self.key(model_version, f"writer:{identifier}")
            ):
                continue
            # Checked again after the lease, which may have ended by publication.
            if not self.client.hexists(self.key(model_version, "generations"), identifier):
                self.client.unlink(name)

    def change(
        self,
        model_version: int,
        current: str | None,
        changed: Iterable[Record],
        *,
        known: Sequence[Record],
        pointer: tuple[Record, int | None] | None = None,
        removed: Iterable[Record] = (),
    ) -> None:
        """Writes, points to and removes records in one transaction.

        Raises `ChangedMeanwhileError` if another process has published, rolled back or erased
        meanwhile: if `current` is no longer current, or the records are not `known`.

        `pointer` is the record to point to and the time to live of its data in milliseconds. The
        pointer goes if the current generation is removed.
        Overlays that the changed records no longer name are dropped.
        """
        changed = list(changed)
        pointer_key = self.key(model_version, "current")
        generations = self.key(model_version, "generations")
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.watch(pointer_key, generations)
            records = self.records(model_version)
            if self.current_name(model_version) != current or records != list(known):
                raise ChangedMeanwhileError(_changed_meanwhile(model_version))
            stored = {record.identifier: record for record in records}
            pipeline.multi()
            for record in changed:
                pipeline.hset(generations, record.identifier, record.to_bytes())
                drop_overlay(self, pipeline, stored.get(record.identifier), record)
            for record in removed:
                pipeline.hdel(generations, record.identifier)
                pipeline.unlink(self.data_key(model_version, record.identifier))
                drop_overlay(self, pipeline, record, None)
                if record.identifier == current:
                    pipeline.delete(pointer_key)
            if pointer is not None:
                pipeline.set(pointer_key, pointer[0].to_bytes(), px=pointer[1])
            try:
                pipeline.execute()
            except redis.WatchError as error:
                raise ChangedMeanwhileError(_changed_meanwhile(model_version)) from error

    def remove(
        self,
        model_version: int,
        current: str | None,
        removed: Sequence[Record],
        *,
        known: Sequence[Record],
    ) -> None:
        """Removes generations; see `change`.

        A server that has used more memory than it may takes no transaction. Their data are then
        removed first, which frees memory.
        """
        change = functools.partial(
            self.change, model_version, current, (), known=known, removed=removed
        )
        try:
            change()
            return
        except redis.exceptions.OutOfMemoryError:
            for record in removed:
                self.client.unlink(self.data_key(model_version, record.identifier))
        for _ in range(_FREEING_ATTEMPTS):  # Redis frees the memory in the background
            with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                change()
                return
            time.sleep(_FREEING_SECONDS)
        change()


def drop_overlay(
    catalog: RedisCatalog, pipeline: Any, old: Record | None, new: Record | None
) -> None:
    """Lets the overlay of a record expire, unless the new record has the same one."""
    if old is not None and old.overlay and (new is None or new.overlay != old.overlay):
        for key in (catalog.overlay_key(old), catalog.log_key(old)):
            pipeline.pexpire(key, _OVERLAY_REMAINS_MS)


def _changed_meanwhile(model_version: int) -> str:
    return (
        f"model version {model_version} was published, rolled back or erased from in the meantime; "
        "try again"
    )


def escape(text: str) -> str:
    """Escapes the special characters of Redis patterns."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in text)
