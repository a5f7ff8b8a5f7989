"""A work folder's own copy of the store's tombstones.

Tombstones are permanent, so a store that lacks one has gone back to an earlier state, or is another
store. With the copy, refreshes and updates leave out the rows of erased members all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store.base import EmbeddingStore
from tfrec_limaml.store.erasure import DIGEST_BYTES
from tfrec_limaml.wording import counted

_FILE = "tombstones"


def erased_digests(work: Path, store: EmbeddingStore) -> frozenset[bytes]:
    """Digests of all erased keys: those of the store, and those that the work folder has seen.

    Raises `LimamlError` if the file of the work folder is damaged.
    """
    return store.erased() | _read(work)


def copy_tombstones(work: Path, store: EmbeddingStore) -> list[str]:
    """Copies new tombstones of the store into the work folder.

    Returns a warning if the store lacks tombstones that the work folder has.

    Raises `LimamlError` if the file of the work folder is damaged.
    """
    in_store, seen = store.erased(), _read(work)
    add_tombstones(work, in_store)
    missing = len(seen - in_store)
    if not missing:
        return []
    return [
        f"the store lacks {counted(missing, 'tombstone')} of erased keys that an earlier run of "
        "this work folder has seen: it has gone back to an earlier state, or is another store. "
        "Rows of these keys are left out, but the store does not know that they are erased: repeat "
        "the erasures (`limaml erase`, see docs/erasure.md)"
    ]


def add_tombstones(work: Path, digests: Iterable[bytes]) -> None:
    """Adds digests of erased keys to the copy; see `tfrec_limaml.store.erasure.key_digest`."""
    seen = _read(work)
    if not seen.issuperset(digests):
        content = b"".join(sorted(seen.union(digests)))
        with staging.file(work / _FILE) as temporary:
            temporary.write_bytes(content)


def _read(work: Path) -> frozenset[bytes]:
    path = work / _FILE
    content = path.read_bytes() if path.exists() else b""
    if len(content) % DIGEST_BYTES:
        raise LimamlError(
            f"{path} is damaged: {len(content)} bytes are not a multiple of {DIGEST_BYTES}; remove "
            "it, and repeat the erasures if the store has lost any (`limaml erase`)"
        )
    starts = range(0, len(content), DIGEST_BYTES)
    return frozenset(content[start : start + DIGEST_BYTES] for start in starts)
