"""One look-up in the Redis backend: its commands, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfrec_limaml.store import overlay, values
from tfrec_limaml.store.base import LookUpResult
from tfrec_limaml.store.erasure import Tombstones, digests_of
from tfrec_limaml.store.generation_record import Record
from tfrec_limaml.store.redis_catalog import RedisCatalog
from tfrec_limaml.store.redis_overlay_reader import RedisOverlayReader


class RedisQuery:
    """Queries some fields of a generation and its overlay, and tombstones if needed.

    Args:
        catalog: The store's catalog.
        record: The generation's record.
        fields: Encoded task keys, at least one.
        reader: Reader of the generation's overlay, or None.
        pipeline: Receives the commands.
    """

    def __init__(
        self,
        catalog: RedisCatalog,
        record: Record,
        fields: Sequence[bytes],
        reader: RedisOverlayReader | None,
        pipeline: Any,
    ) -> None:
        self._record, self._fields = record, fields
        data = catalog.data_key(record.model_version, record.identifier)
        self._overlay = None if reader is None else reader.start_query(pipeline, fields)
        overlay_keys = set() if self._overlay is None else self._overlay.known
        self._data_fields = (
            [field for field in fields if field not in overlay_keys] if overlay_keys else fields
        )
        if record.format >= 2:
            pipeline.hmget(data, (*self._data_fields, values.HEADER))
        else:
            pipeline.hmget(data, self._data_fields)
            pipeline.exists(data)
        self._digests: list[bytes] = []
        if record.erasing:
            self._digests = sorted({digest for field in fields for digest in digests_of(field)})
            pipeline.smismember(catalog.erased_key, self._digests)

    def answer(self, answers: list[Any]) -> LookUpResult | None:
        """The values from the answers; None if the data are gone.

        A missing hash is not a generation without members.
        """
        record, fields = self._record, self._fields
        overlay_entries = {} if self._overlay is None else self._overlay.entries(answers)
        if record.format >= 2:
            *stored, header = answers.pop(0)
            exists = header == record.header
        else:
            stored, exists = answers.pop(0), answers.pop(0)
        if overlay_entries is None or not exists:
            return None
        if overlay_entries:
            value_of = dict(zip(self._data_fields, stored, strict=True))
            stored = overlay.merge_values(fields, overlay_entries, value_of.get, record)
        if record.erasing:
            states = zip(self._digests, answers.pop(0), strict=True)
            stored = Tombstones(digest for digest, erased in states if erased).hide(fields, stored)
        return values.decode_values(fields, stored, record)
