"""Look-ups in an overlay of the LMDB backend.

The environment holds task keys, followed by the log: ``0xfe`` and eight bytes of position, with the
key that was added. A file of eight bytes beside it holds their number, so a reader can tell from
memory whether it knows all of them.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.store.overlay import Entries

_COUNT_FILE = "count"
_COUNT = struct.Struct("<Q")
#: Not UTF-8, so no task key begins with it.
_LOG = b"\xfe"
_POSITION = struct.Struct(">Q")


class OverlayReader:
    """The keys of one overlay, and access to their entries.

    Args:
        path: Folder of the overlay.
        environment: The overlay's environment.
    """

    def __init__(self, path: Path, environment: Any) -> None:
        self._environment = environment
        with open(path / _COUNT_FILE, "rb") as file:
            self._count = mmap.mmap(file.fileno(), _COUNT.size, access=mmap.ACCESS_READ)
        self._keys: set[bytes] = set()
        self._lock = threading.Lock()

    def read(self, keys: Sequence[bytes]) -> Entries:
        """The entries of the given keys in the overlay."""
        if _COUNT.unpack_from(self._count)[0] != len(self._keys):
            self._read_log()
        present = self._keys.intersection(keys)
        if not present:
            return {}
        with self._environment.begin() as transaction:
            return {key: transaction.get(key) for key in present}

    def _read_log(self) -> None:
        with self._lock, self._environment.begin() as transaction:
            cursor = transaction.cursor()
            has_entry = cursor.set_range(_log_name(len(self._keys)))
            new_keys = []
            while has_entry:
                new_keys.append(cursor.value())
                has_entry = cursor.next()
            self._keys.update(new_keys)


def write(path: Path, environment: Any, entries: Entries, new_keys: Iterable[bytes]) -> None:
    """Writes entries to an overlay, and their new keys to the log."""
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        count = _POSITION.unpack(cursor.key()[1:])[0] + 1 if _at_log(cursor) else 0
        cursor.putmulti(sorted(entries.items()))
        for key in new_keys:
            cursor.put(_log_name(count), key)
            count += 1
    # Last: readers that see the number must find these log entries.
    with open(path / _COUNT_FILE, "r+b" if (path / _COUNT_FILE).exists() else "w+b") as file:
        file.write(_COUNT.pack(count))


def entries_in(environment: Any) -> Entries:
    """All entries of an overlay."""
    with environment.begin() as transaction:
        return {key: entry for key, entry in transaction.cursor() if not key.startswith(_LOG)}


def _at_log(cursor: Any) -> bool:
    """Moves to the last key; returns whether it belongs to the log."""
    return bool(cursor.last()) and cursor.key().startswith(_LOG)


def _log_name(position: int) -> bytes:
    return _LOG + _POSITION.pack(position)
