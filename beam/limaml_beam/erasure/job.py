"""Erases task keys from one place after another; each step is idempotent.

Stores come first: readers answer "not found" from then on, and no publication brings a key back.
Then the files. A run that is killed at any point is completed by the same command; lines of the
audit say what each run removed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from apache_beam.io.filesystems import FileSystems
from google.protobuf.message import DecodeError

from limaml_beam.erasure import running
from limaml_beam.erasure.erased_keys import ErasedKeys
from limaml_beam.erasure.files_of_kinds import kind_of
from limaml_beam.erasure.schema_above import schema_above
from limaml_beam.generate_embeddings import tables
from limaml_beam.io import files
from limaml_beam.io.read_errors import READ_ERRORS
from limaml_beam.io.staged_output import REPORT_FILE, is_incomplete, write_file
from tfrec_limaml.errors import LimamlError, UnconfirmedErasureError
from tfrec_limaml.store import EmbeddingStore, Place
from tfrec_limaml.store.erasure import key_digest

_DATA = (
    ".parquet",
    ".csv",
    ".tsv",
    ".txt",
    ".gz",
    ".zst",
    ".bz2",
    ".arrow",
    ".mdb",
    ".avro",
    ".orc",
)
#: Age of an incomplete file from which its process cannot still write to it.
_LEFT_OVER_SECONDS = 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erasure:
    """Settings of one erasure.

    Attributes:
        keys: Task keys. Keys of nested definitions that begin with one of them are erased too.
        stores: The stores, each with its address (without password) for reports.
        outputs: Folders and files that the jobs wrote.
        audit: File to which a line is appended per removal; None for no file.
        show_keys: Whether the audit names keys; otherwise it contains only their digests.
    """

    keys: Sequence[str]
    stores: Sequence[tuple[str, EmbeddingStore]]
    outputs: Sequence[str] = ()
    audit: str | None = None
    show_keys: bool = False


def erase(settings: Erasure) -> dict[str, Any]:
    """Removes the keys from every place.

    Returns:
        ``keys``: the keys, or their digests without `show_keys`; ``removed``: a dictionary for each
        place; ``found_nowhere``: keys that no place held; ``not_searched``: files of kinds that
        were not opened; ``unconfirmed``: stores that may lose the erasure, with the reason.

    Raises:
        LimamlError: A place cannot be reached or read, a refresh is running in one, or a store
            holds no generation. Earlier removals stay; running the same command again continues
            from there.
    """
    audit = _Audit(settings)
    audit.write(
        {
            "event": "begin",
            "stores": [address for address, _ in settings.stores],
            "outputs": settings.outputs,
        }
    )
    erased = ErasedKeys(settings.keys)
    unconfirmed = []
    for address, store in settings.stores:
        try:
            places = store.erase(settings.keys)
        except UnconfirmedErasureError as error:
            places = error.places
            unconfirmed.append({"store": address, "reason": str(error)})
        for place in places:
            erased.matched |= place.matched
            audit.removed(_store_place(address, place))
    running.keep_tombstones(settings.outputs, settings.keys)
    running.wait_for_updates(settings.outputs)
    refreshes = running.refreshes(settings.outputs)
    unsearched: list[str] = []
    for removal in _in_files(settings, erased, unsearched, write=True):
        audit.removed(removal)
    _refuse(refreshes, "the keys are erased from all existing files, but")
    _refuse_empty(settings, "the keys are kept out from now on, but")
    end = {"places": len(audit.places), "not_searched": unsearched, "unconfirmed": unconfirmed}
    audit.write({"event": "end", **end})
    return {
        "keys": audit.names,
        "removed": audit.places,
        "found_nowhere": [key for key in settings.keys if key not in erased.matched],
        "not_searched": unsearched,
        "unconfirmed": unconfirmed,
    }


def verify(settings: Erasure) -> dict[str, Any]:
    """Searches every place and changes nothing.

    Returns:
        ``found``: a dictionary for each place that holds a key; ``keys`` and ``not_searched`` as in
        `erase`.

    Raises:
        LimamlError: A place cannot be reached or read, a refresh is running in one, or a store
            holds no generation: absence is not proven.
    """
    refreshes = running.refreshes(settings.outputs)
    places = [
        _store_place(address, place)
        for address, store in settings.stores
        for place in store.search(settings.keys)
    ]
    unsearched: list[str] = []
    places += list(_in_files(settings, ErasedKeys(settings.keys), unsearched, write=False))
    if not places:
        _refuse(refreshes, "the keys were found nowhere, but")
        _refuse_empty(settings, "the keys were found nowhere, but")
    return {"keys": _key_names(settings), "found": places, "not_searched": unsearched}


def _refuse(refreshes: Sequence[str], result: str) -> None:
    if refreshes:
        raise LimamlError(
            f"{result} limaml refresh is running in {', '.join(refreshes)}: the data that it has "
            "read may hold them; run the same command again when it has ended"
        )


def _refuse_empty(settings: Erasure, result: str) -> None:
    """Raises `LimamlError` if a store is empty, because its address may then be misspelt."""
    empty = [address for address, store in settings.stores if not store.generations()]
    if empty:
        raise LimamlError(
            f"{result} no generation is in {', '.join(empty)}: check the address; if it is right, "
            "run the same command again after the next limaml refresh"
        )


def read_outputs(path: str) -> list[str]:
    """The folders and files that a manifest of outputs names.

    The manifest is a YAML list of paths. Relative paths are relative to the manifest's folder.

    Raises:
        LimamlError: The manifest cannot be read, is not a list, or names something that does not
            exist.
    """
    text = files.read_text(path)
    if text is None:
        raise LimamlError(f"no manifest of outputs at {path}; check the path")
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LimamlError(f"cannot read the manifest of outputs {path}: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(output, str) for output in entries):
        raise LimamlError(
            f"the manifest of outputs {path} must be a list of folders and files, for example "
            f"'- runs/work', received {text[:100]!r}"
        )
    local = files.is_local(path)
    outputs = [
        str(Path(path).parent / output) if local and files.is_local(output) else output
        for output in entries
    ]
    missing = [output for output in outputs if not files.exists(output)]
    if missing:
        raise LimamlError(
            f"the manifest of outputs {path} names {missing}, which do not exist: remove them "
            f"from the list, or mount them"
        )
    return outputs


def _in_files(settings: Erasure, erased: ErasedKeys, unsearched: list[str], write: bool) -> Any:
    """Yields a dictionary for each file with erased keys; appends other kinds to `unsearched`."""
    for root in settings.outputs:
        paths = files.matching(root, "**")
        for path in paths or [root]:
            if write and _remove_if_left_over(path):
                continue
            count = _in_file(path, root, erased, write)
            if count is None and _holds_data(path):
                unsearched.append(path)
            if count:
                yield {"file": path, "rows": count}
        if write:
            _count_again(paths)


def _remove_if_left_over(path: str) -> bool:
    """Removes the incomplete file of a killed process; a younger one may still be written to."""
    if not is_incomplete(path):
        return False
    if time.time() - FileSystems.last_updated(path) < _LEFT_OVER_SECONDS:
        return False
    FileSystems.delete([path])
    return True


def _holds_data(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].lower()
    if is_incomplete(path):
        return True
    if name == "lock.mdb":  # of LMDB: process numbers
        return False
    return name.endswith(_DATA) or ".tfrecord" in name


def _in_file(path: str, root: str, erased: ErasedKeys, write: bool) -> int | None:
    kind = kind_of(path)
    if kind is None or is_incomplete(path):
        return None
    schema_and_definitions = schema_above(path, root)
    try:
        return kind(
            path,
            erased
            if schema_and_definitions is None
            else erased.with_schema(*schema_and_definitions),
            write,
        )
    except (*READ_ERRORS, DecodeError) as error:
        raise LimamlError(f"cannot search {path}: {error}; remove it, or replace it") from error


def _count_again(paths: Sequence[str]) -> None:
    """Corrects the number of rows in the reports of embedding jobs."""
    for path in paths:
        if path.rsplit("/", 1)[-1] != REPORT_FILE:
            continue
        report = json.loads(files.read_text(path) or "{}")
        folder = path.rsplit("/", 1)[0]
        if "rows" in report and "generation" in report:
            rows = sum(map(tables.row_count, tables.embedding_files(folder)))
            if rows != report["rows"]:
                text = json.dumps({**report, "rows": rows}, indent=2) + "\n"
                write_file(path, text.encode())


def _store_place(address: str, place: Place) -> dict[str, Any]:
    fields = dataclasses.asdict(place)
    del fields["matched"]  # the audit holds digests only
    return {"store": address, **fields}


def _key_names(settings: Erasure) -> list[str]:
    return [key if settings.show_keys else key_digest(key).hex() for key in settings.keys]


class _Audit:
    """The audit file; a line is on the disk as soon as its removal is."""

    def __init__(self, settings: Erasure) -> None:
        self._path, self.names = settings.audit, _key_names(settings)
        self.places: list[dict[str, Any]] = []

    def removed(self, place: dict[str, Any]) -> None:
        """Records a removal."""
        self.places.append(place)
        self.write({"event": "removed", **place})

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line."""
        if self._path is None:
            return
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"time": now, **line, "keys": self.names}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LimamlError(f"cannot write the audit {self._path}: {error}") from error
