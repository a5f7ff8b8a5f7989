"""Rules that both backends follow.

They cover identifiers of generations, and what may be published, upserted, rolled back to and
pruned.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import time
from collections.abc import Collection, Sequence

from tfrec_limaml.errors import NotCurrentError, StoreError
from tfrec_limaml.store.generation_record import FORMAT, Record

ERASED_MEANWHILE = (
    "keys were erased while generation {!r} was written: it is not published; write it again"
)

_NUMBER = re.compile(r"-\d{3}$")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: Ending of the files that the LMDB backend locks, beside the folders of its generations.
LOCK_SUFFIX = ".lock"


def check_new(model_version: int, embedding_dim: int) -> None:
    """Raises `StoreError` for invalid settings of a generation."""
    if model_version < 1 or embedding_dim < 1:
        raise StoreError(
            f"model_version and embedding_dim must be positive, received {model_version} and "
            f"{embedding_dim}"
        )


def choose_identifier(requested: str | None, published: Collection[str]) -> str:
    """Checks the requested identifier, or creates one that sorts after all published ones.

    A new identifier is the current time, ``20221122T035400Z``, with ``-001``... appended if that is
    taken. If the newest published one sorts after the current time (the clock was wrong once, or
    its name was chosen), the new identifier is that one with ``-001``... appended.
    """
    newest = max(published, default="")
    if requested is None:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        if stamp < newest:
            stamp = _NUMBER.sub("", newest)
        candidates = [stamp, *(f"{stamp}-{n:03d}" for n in range(1, 1000))]
        later = [c for c in candidates if c > newest]
        if not later:
            raise StoreError(
                f"no number is left after the newest generation {newest!r}; pass an identifier"
            )
        return later[0]
    if not _IDENTIFIER.fullmatch(requested):
        raise StoreError(
            "generation identifier must be letters, digits, '.', '_' or '-' (100 at most), "
            f"received {requested!r}"
        )
    if requested.endswith(LOCK_SUFFIX):
        raise StoreError(
            f"generation identifier must not end in {LOCK_SUFFIX!r}, which is the ending of lock "
            f"files, received {requested!r}; choose another one"
        )
    if requested <= newest:
        raise StoreError(
            f"generation identifier {requested!r} does not sort after the newest published one "
            f"{newest!r}; choose a later one"
        )
    return requested


def new_record(
    model_version: int,
    embedding_dim: int,
    dtype: str,
    identifier: str | None,
    published: Collection[str],
    model: str,
) -> Record:
    """Record of a new generation; see `choose_identifier`."""
    return Record(
        model_version=model_version,
        identifier=choose_identifier(identifier, published),
        count=0,
        embedding_dim=embedding_dim,
        dtype=dtype,
        published=0.0,
        format=FORMAT,
        model=model,
    )


def check_count(identifier: str, count: int, expected: int | None, erased: int) -> None:
    """Raises `StoreError` if a generation has a wrong number of keys.

    `erased` keys were left out.
    """
    if expected is not None and count + erased != expected:
        left_out = f" besides {erased} erased ones" if erased else ""
        raise StoreError(
            f"generation {identifier!r} holds {count} distinct task keys{left_out}, expected "
            f"{expected}: not published"
        )
    if count == 0:
        raise StoreError(f"generation {identifier!r} is empty: not published")


def check_upsert(record: Record | None, generation: str, model_version: int) -> Record:
    """The current generation's record; raises if it is not the given one."""
    if record is None or record.identifier != generation:
        current = None if record is None else record.identifier
        raise NotCurrentError(
            f"generation {generation!r} of model version {model_version} is not current "
            f"({current!r} is): nothing upserted; adapt again from the current generation's data"
        )
    if record.format < 2:
        raise StoreError(
            f"generation {generation!r} was written by release 0.1.0, without checksums: publish "
            "again before upserting"
        )
    return record


def check_expected(current: str | None, expected: str | None, model_version: int) -> None:
    """Raises `StoreError` if another generation than the expected one is current."""
    if expected is not None and current != expected:
        raise StoreError(
            f"the current generation of model version {model_version} has changed from "
            f"{expected!r} to {current!r} meanwhile; nothing was done"
        )


def rollback_target(
    published: Sequence[Record], current: str | None, identifier: str | None, model_version: int
) -> Record:
    """The published generation that a rollback makes current (oldest first in `published`)."""
    names = [record.identifier for record in published]
    if identifier is not None:
        if identifier not in names:
            raise StoreError(
                f"no published generation {identifier!r} of model version {model_version}; there "
                f"are {names}"
            )
        return published[names.index(identifier)]
    earlier = [
        record
        for record in published
        if current is not None and record.identifier < current and not record.condemned
    ]
    if not earlier:
        place = "" if current is None else f" before {current!r}"
        raise StoreError(
            f"no generation of model version {model_version}{place} to roll back to; there are "
            f"{names or 'none'}"
        )
    return earlier[-1]


def after_rollback(
    published: Sequence[Record], current: str | None, target: Record, now: float
) -> tuple[Record, list[Record]]:
    """The new record of the target, and all records that change.

    Returning to an earlier generation condemns the one that was current.
    """
    target = dataclasses.replace(target, condemned=0.0, overlay="")
    changed_records = [target]
    for record in published:
        if record.identifier == current and record.identifier != target.identifier:
            to_earlier = record.identifier > target.identifier
            condemned = now if to_earlier else record.condemned
            changed_records.append(dataclasses.replace(record, condemned=condemned, overlay=""))
    return target, changed_records


def condemn_target(
    published: Sequence[Record], current: str | None, identifier: str, model_version: int
) -> Record:
    """The published generation to condemn."""
    if identifier == current:
        raise StoreError(
            f"generation {identifier!r} of model version {model_version} is current: roll back to "
            f"another one, which condemns this one"
        )
    return rollback_target(published, current, identifier, model_version)


def prune_targets(
    published: Sequence[Record], current: str | None, keep: int, grace_seconds: float
) -> list[Record]:
    """Published generations that may be removed.

    They are condemned, or not among the newest `keep` others; not current, unless `keep` is 0; and
    older than `grace_seconds`.
    """
    if keep < 0:
        raise StoreError(f"keep must not be negative, received {keep}")
    if not grace_seconds >= 0:
        raise StoreError(f"grace_seconds must not be negative, received {grace_seconds:g}")
    older_than = time.time() - grace_seconds
    good = [record for record in published if not record.condemned]
    kept = {current, *(record.identifier for record in good[-keep:])} if keep else set()
    return [r for r in published if r.identifier not in kept and r.published < older_than]
