"""The entries of the state of updates: what their keys in the LMDB environment mean."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tfrec_limaml.store.erasure import key_digest

#: First bytes of entries that are not tasks: not UTF-8, so that no task key begins with them. The
#: first is followed by the prefix of a definition's keys, the second by a time and a key's digest,
#: the third by a turn and a key's digest.
SCHEMA, LEAVING, _TURN = b"\xff", b"\xfe", b"\xfd"
_LOWEST = 1 << 63  # times are written as the difference to the lowest one, so that they sort


def turn_key(turn: int, key: bytes) -> bytes:
    """The key of a task's offset of an earlier turn."""
    return _TURN + bytes([turn]) + key_digest(key)


def turn_entries(transaction: Any, digests: Collection[bytes]) -> list[bytes]:
    """Entries of earlier turns, of tasks with these digests."""
    cursor, entries = transaction.cursor(), []
    if digests and cursor.set_range(_TURN):
        for entry, _ in cursor:
            if not entry.startswith(_TURN):
                break
            if entry[len(_TURN) + 1 :] in digests:
                entries.append(entry)
    return entries


def time_key(time: int) -> bytes:
    """The first bytes of entries of tasks that lose a row at this time, in milliseconds."""
    return LEAVING + min(max(time + _LOWEST, 0), 2 * _LOWEST - 1).to_bytes(8, "big")


def leaving(transaction: Any, window_start: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of rows before a time, with the keys of their tasks."""
    cursor, end = transaction.cursor(), time_key(window_start)
    if cursor.set_range(LEAVING):
        for entry, key in cursor:
            if entry >= end:
                return
            yield entry, key


def is_task(key: bytes) -> bool:
    """Whether this is the key of a task's rows."""
    return not key.startswith((SCHEMA, LEAVING, _TURN))


def prefix_of(key: str) -> str:
    """The prefix of the keys of a task's definition in a store; see `joint_key_prefix`."""
    return "|".join([*key.split("|", 2)[:2], ""]) if key.startswith("%|") else ""


def schema_key(prefix: str) -> bytes:
    """The key of the Arrow schema of a definition's rows."""
    return SCHEMA + prefix.encode()
