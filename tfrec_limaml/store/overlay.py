"""Rules for overlays that both backends share.

They cover the form of entries, which of two is newer, and which ones a new generation takes over.

Readers keep the keys of an overlay in memory and follow a log of new ones: a second query for every
missing key would take up to half the time of a look-up.

An entry is the value as a generation stores it (vector and checksum, see `values`), the event time
in milliseconds (eight bytes) and four bytes of CRC-32 that cover key and time. Readers use the
value at its front and check it like others; the time is for writers.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store import values
from tfrec_limaml.store.base import EventTimes, Upserted
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.store.generation_record import Record

_TIME = struct.Struct("<q")
_CHECKSUM = struct.Struct("<I")
_LATEST = np.iinfo(np.int64).max
#: Number of bytes by which an entry is longer than a generation's value.
_TAIL_BYTES = _TIME.size + _CHECKSUM.size
_VALUE_CHECKSUM_BYTES = 4

Entries = dict[bytes, bytes]


def new_token() -> str:
    """A name that was never used before: readers keep handles by path."""
    return secrets.token_hex(6)


def entries_of(
    keys: Sequence[str],
    embeddings: npt.ArrayLike,
    event_times: Sequence[int],
    record: Record,
    tombstones: Tombstones,
) -> tuple[Entries, Upserted]:
    """The newest entry of each key of one call, without erased keys.

    Returns:
        The entries, and the counts if all of them are newer than the stored ones.

    Raises:
        StoreError: Wrong shapes or values; see `values.encode_values`.
    """
    times = np.asarray(event_times)
    if times.shape != (len(keys),) or (len(times) and times.dtype.kind not in "iu"):
        raise StoreError(
            f"event_times must be {len(keys)} whole numbers of milliseconds, one per key, received "
            f"shape {list(times.shape)} of {times.dtype}"
        )
    if times.dtype.kind == "u" and len(times) and times.max() > _LATEST:
        raise StoreError(
            f"event_times must be at most 2**63 - 1 milliseconds, received {times.max()}"
        )
    encoded = values.encode_keys(keys)
    stored = values.encode_values(keys, encoded, embeddings, record)
    erased = tombstones.matches(encoded)
    newest: dict[bytes, tuple[int, bytes]] = {}
    for key, value, time, is_erased in zip(encoded, stored, times.tolist(), erased, strict=True):
        if not is_erased and (key not in newest or newest[key][0] <= time):
            newest[key] = time, value
    entries = {key: value + _tail(key, time, record) for key, (time, value) in newest.items()}
    count = int(erased.sum())
    return entries, Upserted(
        applied=len(entries), older=len(keys) - count - len(entries), erased=count
    )


def newer_entries(
    entries: Entries, stored: Sequence[bytes | None], counts: Upserted, record: Record
) -> tuple[Entries, Upserted]:
    """The entries that replace those in `stored`: newer ones and those with equal times."""
    result = {
        key: entry
        for (key, entry), old_entry in zip(entries.items(), stored, strict=True)
        if old_entry is None or _is_newer(key, entry, old_entry, record)
    }
    older = counts.older + len(entries) - len(result)
    return result, Upserted(applied=len(result), older=older, erased=counts.erased)


def _is_newer(key: bytes, entry: bytes, old: bytes, record: Record) -> bool:
    old_time, new_time = event_time(key, old, record), event_time(key, entry, record)
    return old_time is None or new_time is None or new_time >= old_time


def value_of(entry: bytes, record: Record) -> bytes:
    """The value at the front of an entry."""
    return entry[: record.vector_bytes + _VALUE_CHECKSUM_BYTES]


def merge_values(
    keys: Sequence[bytes],
    overlay_entries: Mapping[bytes, bytes],
    stored_value: Callable[[bytes], bytes | None],
    record: Record,
) -> list[bytes | None]:
    """The values of keys: those of the overlay, if there are any, otherwise the generation's."""
    width = record.vector_bytes + _VALUE_CHECKSUM_BYTES
    return [
        overlay_entries[key][:width] if key in overlay_entries else stored_value(key)
        for key in keys
    ]


def event_time(key: bytes, entry: bytes, record: Record) -> int | None:
    """Milliseconds of an entry's event; None if the entry is damaged."""
    if len(entry) != record.vector_bytes + _VALUE_CHECKSUM_BYTES + _TAIL_BYTES:
        return None
    time = _TIME.unpack_from(entry, len(entry) - _TAIL_BYTES)[0]
    return int(time) if entry.endswith(_tail(key, time, record)) else None


def _tail(key: bytes, time: int, record: Record) -> bytes:
    packed = _TIME.pack(time)
    return packed + _CHECKSUM.pack(zlib.crc32(packed, zlib.crc32(key, record.seed)))


def entries_to_take_over(
    entries: Mapping[bytes, bytes],
    source: Record,
    record: Record,
    event_times: EventTimes,
    tombstones: Tombstones,
) -> Entries:
    """Entries of the overlay of `source` that are newer than the data of `record`.

    They are converted for `record`. Damaged entries are left out, and all of them if the widths
    differ or another model made them.
    """
    if source.model and record.model and source.model != record.model:
        return {}
    times = {key: event_time(key, entry, source) for key, entry in entries.items()}
    keys = [key for key, time in times.items() if time is not None]
    if not keys or source.embedding_dim != record.embedding_dim:
        return {}
    names = [key.decode() for key in keys]
    newest = np.array([times[key] for key in keys], np.int64)
    matrix, intact = values.decode_values(
        keys, [value_of(entries[key], source) for key in keys], source
    )
    with np.errstate(over="ignore"):
        intact &= np.isfinite(matrix.astype(record.stored_dtype)).all(axis=1)
    mask = intact & (newest > np.asarray(event_times(names))) & ~tombstones.matches(keys)
    rows = np.flatnonzero(mask)
    converted, _ = entries_of(
        [names[row] for row in rows], matrix[rows], newest[rows].tolist(), record, Tombstones()
    )
    return converted
