"""Refreshes and updates that use a work folder while keys are erased from it.

Runs that begin after the stores have their tombstones leave the keys out. Runs that began before
may still write rows of erased tasks to files that were already searched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from limaml_beam.erasure.work_tombstones import add_tombstones
from limaml_beam.io import files
from limaml_beam.io.folder_lock import REFRESH, UPDATE, exclusive, is_held
from tfrec_limaml.store.erasure import key_digest

#: Folders above a file, up to its work folder: WORK/embeddings/GENERATION/turns/TURN/FILE.
_LEVELS = 5


def refreshes(roots: Sequence[str]) -> list[str]:
    """Work folders below some folders in which a refresh is running."""
    return [
        str(folder) for folder in _folders_with(roots, REFRESH.file) if is_held(folder, REFRESH)
    ]


def wait_for_updates(roots: Sequence[str]) -> None:
    """Waits for running updates to end: they take seconds."""
    for folder in _folders_with(roots, UPDATE.file):
        with exclusive(folder, UPDATE, wait=True):
            pass


def keep_tombstones(roots: Sequence[str], keys: Iterable[str]) -> None:
    """Records erased keys in the work folders below some folders, in case the store loses them."""
    digests = frozenset(map(key_digest, keys))
    for folder in _folders_with(roots, REFRESH.file):
        add_tombstones(folder, digests)


@contextlib.contextmanager
def without_updates(path: str) -> Iterator[None]:
    """A context in which no update reads or writes a file; waits for a running one."""
    with contextlib.ExitStack() as stack:
        for folder in list(Path(path).parents)[:_LEVELS] if files.is_local(path) else ():
            if any((folder / lock.file).exists() for lock in (UPDATE, REFRESH)):
                stack.enter_context(exclusive(folder, UPDATE, wait=True))
                break
        yield


def _folders_with(roots: Sequence[str], lock: str) -> list[Path]:
    """Local folders that hold a lock; folders elsewhere have none."""
    local = [root for root in roots if files.is_local(root)]
    return [path.parent for root in local for path in sorted(Path(root).rglob(lock))]
