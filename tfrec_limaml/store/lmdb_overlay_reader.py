"""Look-ups in an overlay of the LMDB backend.

The environment holds task keys, followed by the log: ``0xfe`` and eight bytes of position, with the
key that was added. A file of eight bytes beside it holds their number, so a reader can tell from
memory whether it knows all of them. After a power failure the file may be short or behind the log:
readers therefore read the whole log first, and follow it without the file if they must.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml.store.lmdb_environment import write_transaction
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
        self._count = _mapped_count(path / _COUNT_FILE)
        self._keys: set[bytes] = set()
        self._lock = threading.Lock()
        self._read_log()

    def read(self, keys: Sequence[bytes]) -> Entries:
        """The entries of the given keys in the overlay."""
        if self._count is None or _COUNT.unpack_from(self._count)[0] != len(self._keys):
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
    with write_transaction(environment) as transaction:
        cursor = transaction.cursor()
        count = _POSITION.unpack(cursor.key()[1:])[0] + 1 if _at_log(cursor) else 0
        cursor.putmulti(sorted(entries.items()))
        for key in new_keys:
            cursor.put(_log_name(count), key)
            count += 1
    # Last: readers that see the number must find these log entries.
    _write_count(path / _COUNT_FILE, count)


def entries_in(environment: Any) -> Entries:
    """All entries of an overlay."""
    with environment.begin() as transaction:
        return {key: entry for key, entry in transaction.cursor() if not key.startswith(_LOG)}


def _mapped_count(file: Path) -> mmap.mmap | None:
    """The number of log entries, as memory that follows the file; None if it is unknown."""
    try:
        with file.open("rb") as opened:
            return mmap.mmap(opened.fileno(), _COUNT.size, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: the file is shorter
        return None


def _write_count(file: Path, count: int) -> None:
    is_new = not file.exists()
    with file.open("w+b" if is_new else "r+b") as opened:
        opened.write(_COUNT.pack(count))
        if is_new:  # on the disk before a record names the overlay; later changes keep the length
            opened.flush()
            os.fsync(opened.fileno())


def _at_log(cursor: Any) -> bool:
    """Moves to the last key; returns whether it belongs to the log."""
    return bool(cursor.last()) and cursor.key().startswith(_LOG)


def _log_name(position: int) -> bytes:
    return _LOG + _POSITION.pack(position)
