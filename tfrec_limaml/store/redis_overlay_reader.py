"""Look-ups in an overlay of the Redis backend.

The client knows the overlay's keys. In the round trip of a look-up it queries the entries of known
keys, and the new items of the list of keys, of a long list the first ones. If a requested key is
new, a second round trip fetches it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.overlay import Entries
from tfrec_limaml.store.redis_catalog import RedisCatalog

#: Largest number of the list's items in one command, which blocks the server while it runs.
LOG_ITEMS = 10_000


class RedisOverlayReader:
    """The keys of one overlay, as far as this client has read them.

    Args:
        catalog: The store's catalog.
        record: The record of the generation with the overlay.
    """

    def __init__(self, catalog: RedisCatalog, record: Record) -> None:
        self._hash, self._log = catalog.overlay_key(record), catalog.log_key(record)
        self._client, self._header = catalog.client, record.header
        self._keys: set[bytes] = set()
        self._item_count = 0  # items of the list
        self._lock = threading.Lock()

    def start_query(self, pipeline: Any, fields: Sequence[bytes]) -> OverlayQuery:
        """Adds the commands of one look-up."""
        # Queries from the last known item, so that an empty answer means that the list is gone.
        # The position is read before the keys, to which other threads add.
        start = max(self._item_count - 1, 0)
        known = self._keys.intersection(fields)
        pipeline.lrange(self._log, start, start + LOG_ITEMS - 1)
        if known:
            pipeline.hmget(self._hash, list(known))
        return OverlayQuery(self, fields, known, start)

    def follow(self, start: int, items: Sequence[bytes]) -> set[bytes]:
        """Adds the list's items from `start` on; returns those that may be new.

        `items` is the first part; further ones are read if it is full.
        """
        if start == 0 and items[0] != self._header:
            return set()
        found = set(items)
        self._add(start, items)
        while len(items) == LOG_ITEMS:
            start += LOG_ITEMS
            items = self._client.lrange(self._log, start, start + LOG_ITEMS - 1)
            self._add(start, items)
            found.update(items)
        return found

    def _add(self, start: int, items: Sequence[bytes]) -> None:
        with self._lock:
            if start + len(items) > self._item_count:
                new = set(items[max(self._item_count - start, 0) :]) - {self._header}
                self._keys |= new
                self._item_count = start + len(items)

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries, in a separate round trip."""
        entries: list[bytes | None] = self._client.hmget(self._hash, keys)
        return entries


class OverlayQuery:
    """A look-up in progress.

    Attributes:
        known: The fields that are known to be in the overlay.
    """

    def __init__(
        self, reader: RedisOverlayReader, fields: Sequence[bytes], known: set[bytes], start: int
    ) -> None:
        self.known = known
        self._reader, self._fields, self._start = reader, fields, start

    def entries(self, answers: list[Any]) -> Entries | None:
        """The fields' entries in the overlay, from the front of `answers`; None if it is gone."""
        items = answers.pop(0)
        entries = dict(zip(self.known, answers.pop(0) if self.known else (), strict=True))
        if not items or None in entries.values():
            return None
        new_keys = self._reader.follow(self._start, items)
        missing = [field for field in self._fields if field in new_keys and field not in entries]
        if missing:
            fetched = zip(missing, self._reader.fetch(missing), strict=True)
            entries |= {field: entry for field, entry in fetched if entry is not None}
        return entries
