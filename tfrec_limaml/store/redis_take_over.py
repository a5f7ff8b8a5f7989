"""Publication in the Redis backend: takes over newer overlay entries, and moves the pointer.

A large overlay takes seconds to copy. It is therefore read and written in parts, while readers go
on: nothing names the copy until one short transaction publishes its record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import overlay
from tfrec_limaml.store.base import EventTimes
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_catalog import RedisCatalog, drop_overlay
from tfrec_limaml.store.redis_overlay import (
    check_tombstones,
    overlay_entries,
    run_watched,
    with_token,
    write,
)

_ENTRIES_PER_ROUND_TRIP = 16_384
#: Time to live of a copy that no record names: its writer may die.
_COPY_MS = 3_600_000


def publish(
    catalog: RedisCatalog,
    record: Record,
    event_times: EventTimes,
    tombstones: Tombstones,
    ttl_ms: int,
    finish: Callable[[Any, Record], None],
) -> Record:
    """Takes over newer overlay entries and moves the pointer, atomically.

    Args:
        catalog: The store's catalog.
        record: Record of the new generation, whose data are complete.
        event_times: See `GenerationWriter.publish`.
        tombstones: Those of the store when the writer was opened.
        ttl_ms: Time to live of its overlay, in milliseconds.
        finish: Adds the commands that publish a record to a transaction.

    Raises:
        ErasedMeanwhileError: The tombstones have changed.
    """
    copy = _OverlayCopy(catalog, record, event_times, tombstones)

    def work(pipeline: Any) -> Record:
        pipeline.watch(catalog.key(record.model_version, "current"), catalog.erased_key)
        previous = catalog.current(record.model_version)
        if previous is not None and previous.identifier == record.identifier:
            return previous  # by an earlier attempt, whose answer was lost
        check_tombstones(catalog, record, tombstones)
        if previous is None or not previous.overlay:
            new_record = record
            pipeline.multi()
        else:
            pipeline.watch(catalog.overlay_key(previous))
            new_record = copy.follow(previous)
            pipeline.multi()
            _replace_overlay(pipeline, catalog, previous, new_record, ttl_ms)
        finish(pipeline, new_record)
        pipeline.execute()
        return new_record

    try:
        published = run_watched(catalog.client, work)
    except StoreError:
        copy.drop()
        raise
    if not published.overlay:
        copy.drop()
    return published


def _replace_overlay(
    pipeline: Any, catalog: RedisCatalog, previous: Record, record: Record, ttl_ms: int
) -> None:
    """Adds the commands that keep the overlay of `record` and drop that of `previous`."""
    if record.overlay:
        for key in (catalog.overlay_key(record), catalog.log_key(record)):
            pipeline.pexpire(key, ttl_ms)
    generations = catalog.key(record.model_version, "generations")
    pipeline.hset(generations, previous.identifier, previous.without_overlay().to_bytes())
    drop_overlay(catalog, pipeline, previous, None)


class _OverlayCopy:
    """The overlay of a generation to publish: what is newer in the current overlay.

    Args:
        catalog, record, event_times, tombstones: See `publish`.
    """

    def __init__(
        self, catalog: RedisCatalog, record: Record, event_times: EventTimes, tombstones: Tombstones
    ) -> None:
        self._catalog, self._record = catalog, with_token(record)
        self._event_times, self._tombstones = _asked_once(event_times), tombstones
        self._source = ""
        self._seen: overlay.Entries = {}
        self._logged: set[bytes] = set()

    def follow(self, current: Record) -> Record:
        """Copies the entries that are new in the current overlay since the last call.

        Returns:
            The record to publish, with the copy if it has entries.
        """
        source = self._catalog.overlay_key(current)
        if source != self._source:
            self.drop()
            self._source = source
        changed = {
            key: entry
            for key, entry in overlay_entries(self._catalog.client, source)
            if self._seen.get(key) != entry
        }
        self._seen |= changed
        self._write(
            overlay.entries_to_take_over(
                changed, current, self._record, self._event_times, self._tombstones
            )
        )
        return self._record if self._logged else self._record.without_overlay()

    def drop(self) -> None:
        """Removes what was copied; no record may name it."""
        if self._logged:
            for key in (
                self._catalog.overlay_key(self._record),
                self._catalog.log_key(self._record),
            ):
                self._catalog.client.unlink(key)
        self._source, self._seen, self._logged = "", {}, set()
        self._record = with_token(self._record)

    def _write(self, entries: overlay.Entries) -> None:
        rows = list(entries.items())
        for start in range(0, len(rows), _ENTRIES_PER_ROUND_TRIP):
            part = dict(rows[start : start + _ENTRIES_PER_ROUND_TRIP])
            new = [key for key in part if key not in self._logged]
            log = new if self._logged else [self._record.header, *new]
            pipeline = self._catalog.client.pipeline(transaction=False)
            write(pipeline, self._catalog, self._record, part, log, _COPY_MS)
            pipeline.execute()
            self._logged.update(new)


def _asked_once(event_times: EventTimes) -> EventTimes:
    """The same times; each key is asked for once."""
    known: dict[str, int] = {}

    def times(keys: Sequence[str]) -> npt.NDArray[np.int64]:
        new = [key for key in keys if key not in known]
        if new:
            known.update(zip(new, np.asarray(event_times(new)).tolist(), strict=True))
        return np.array([known[key] for key in keys], np.int64)

    return times
