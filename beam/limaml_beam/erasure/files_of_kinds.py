"""Which rows of a file are those of erased task keys, and the file without them.

Each kind of file has one function ``(path, erased, write)``: it returns the number of such rows,
and with `write` puts a file without them in place of the old one, whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from limaml_beam.build_tasks import kept_rows as kept_rows_module
from limaml_beam.erasure.record_rows import names_others, without_rows
from limaml_beam.erasure.task_key import task_key_of
from limaml_beam.io import files
from limaml_beam.io.read_errors import open_file
from limaml_beam.io.staged_output import staged_file
from limaml_beam.io.tfrecords import frame_record, read_records
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK, beside_column
from limaml_beam.update.job import exclusive
from limaml_beam.update.state import UpdateState
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import decode_task_key, joint_key_prefix, task_key
from tfrec_limaml.store.erasure import is_meant
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, SCHEMA_FILE

TASK_KEY, RECORD = "task_key", "record"
_COMPRESSION = 1  # as `limaml prepare` writes
Kind: TypeAlias = "Callable[[str, Erased, bool], int]"


class Erased:
    """The keys to erase, and how rows of any form are recognised.

    Args:
        keys: Task keys.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = frozenset(key.encode() for key in keys)
        #: What a record holds that holds one of the keys, of whichever definition.
        self._parts = [
            key.split("|", 2)[2].encode() if key.startswith("%|") else key.encode() for key in keys
        ]
        words = {part for key in keys for part in _parts(key)[:1]}
        alternatives = "|".join(map(re.escape, sorted(words))) or r"(?!)"
        self._words = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
        #: Key columns of task definitions, with what their keys begin with in a store.
        self._definitions: dict[tuple[str, ...], str] = {}
        self._prefixes: dict[str, str] = {}

    def beside(self, schema: Schema, definitions: Sequence[str]) -> Erased:
        """The same keys for files of a folder with a schema.

        Args:
            schema: The schema, whose task definitions make keys of columns.
            definitions: Those that the folder holds records of, the first one first; a plain key
                is not one of a definition beside it (see `Schema.key_prefixes`).
        """
        made = Erased(())
        made._keys, made._words, made._parts = self._keys, self._words, self._parts
        first = definitions or (schema.default_task,)
        made._prefixes = schema.key_prefixes(tuple(dict.fromkeys([*first, *schema.tasks])))
        made._definitions = {schema.task_columns(n): p for n, p in made._prefixes.items()}
        return made

    @property
    def has_definitions(self) -> bool:
        """Whether a schema says which columns make task keys."""
        return bool(self._definitions)

    def key(self, key: bytes) -> bool:
        """Whether a task key is meant, as it stands in a store."""
        return is_meant(key, self._keys)

    def key_of(self, definition: str, key: bytes) -> bool:
        """Whether a definition's task key is meant, as it stands in records.

        Raises:
            LimamlError: No schema says which definition comes first.
        """
        if definition not in self._prefixes:
            raise LimamlError(
                f"no schema.yaml with the task definition {definition!r} is beside its records: "
                "it cannot be told whose keys are meant; put it back, or delete the records"
            )
        return self.key(self._prefixes[definition].encode() + key)

    def names(self, record: bytes) -> bool:
        """Whether a record may hold one of the keys, its own or that of another task."""
        return any(part in record for part in self._parts)

    def refused_record(self, record: bytes) -> bool:
        """Whether a record among dead letters is meant; one whose key cannot be read is, where it
        holds the first part of a key as a word.
        """
        key = task_key_of(record)
        if key is None or names_others(record):
            return self.text(record.decode(errors="replace"))
        return self.key(key)

    def text(self, text: str) -> bool:
        """Whether a text holds the first part of a key as a word."""
        return self._words.search(text) is not None

    def row(self, row: Any) -> bool:
        """Whether a row of a dead letter is meant: by the keys that its columns make, or, where
        they make none, by its text.
        """
        if not isinstance(row, dict):
            return self.text(str(row))
        made = [
            (prefix, task_key([row[column] for column in columns]))
            for columns, prefix in self._definitions.items()
            if all(column in row for column in columns)
        ]
        if not made or any(key is None for _, key in made):
            return self.text(json.dumps(row, ensure_ascii=False))
        return any(self.key(f"{prefix}{key}".encode()) for prefix, key in made)

    def columns(self, names: Sequence[str]) -> dict[tuple[str, ...], str]:
        """Key columns of the task definitions that a table with these columns holds keys of, and
        what these keys begin with in a store.
        """
        return {c: prefix for c, prefix in self._definitions.items() if set(c) <= set(names)}


def _parts(key: str) -> tuple[str, ...]:
    """The values that a key was made of; see `joint_key_prefix`."""
    return decode_task_key(key)[2 if key.startswith("%|") else 0 :]


def task_records(path: str, erased: Erased, write: bool) -> int | None:
    """A TFRecord file of task records; None where it holds other records.

    Counts records that go, and those of other tasks that lose rows which name a key.
    """
    count = 0
    for record in read_records(path):
        if task_key_of(record) is None:
            return None
        count += _left_of(record, path, erased) is not record
    if count and write:
        squeeze = isal_zlib.compressobj(_COMPRESSION, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
        packed = ".gz" in path.rsplit("/", 1)[-1].lower()
        with staged_file(path) as file:
            for record in read_records(path):
                left = _left_of(record, path, erased)
                if left is not None:
                    framed = frame_record(left)
                    file.write(squeeze.compress(framed) if packed else framed)
            if packed:
                file.write(squeeze.flush())
    return count


def _left_of(record: bytes, path: str, erased: Erased) -> bytes | None:
    """What stays of a record: itself, a record with fewer rows, or nothing."""
    if not erased.names(record):
        return record
    key = task_key_of(record) or b""
    if not names_others(record):
        return None if erased.key(key) else record
    definition = path.split("/")[-2]
    if erased.key_of(definition, key):
        return None
    return without_rows(record, erased.key_of)


def json_lines(path: str, erased: Erased, write: bool) -> int:
    """Dead letters of `limaml prepare` and `limaml update`."""
    with open_file(path) as file:
        lines = bytes(file.read()).splitlines(keepends=True)
    meant = [_is_meant_line(line, erased) for line in lines]
    if any(meant) and write:
        with staged_file(path) as file:
            kept = (line for line, gone in zip(lines, meant, strict=True) if not gone)
            file.write(b"".join(kept))
    return sum(meant)


def _is_meant_line(line: bytes, erased: Erased) -> bool:
    try:
        letter = json.loads(line)
        return "row" in letter and erased.row(letter["row"])
    except (ValueError, TypeError):
        return erased.text(line.decode(errors="replace"))


def parquet(path: str, erased: Erased, write: bool) -> int | None:
    """A Parquet file: embeddings, dead letters of `limaml embed`, or a table with key columns; None
    where it has none of these columns, and no schema says which they would be.
    """
    with files.open_binary(path) as raw, pq.ParquetFile(raw) as file:
        names = file.schema_arrow.names
        meant = _rule_for(names, erased)
        if meant is None:
            return 0 if erased.has_definitions else None
        columns = _columns_needed(names, erased)
        count = sum(int(meant(b).sum()) for b in file.iter_batches(columns=columns))
        if count and write:
            with staged_file(path) as target, pq.ParquetWriter(target, file.schema_arrow) as writer:
                for batch in file.iter_batches():
                    writer.write_batch(batch.filter(pa.array(~meant(batch))))
    return count


def _columns_needed(names: Sequence[str], erased: Erased) -> list[str]:
    wanted = {TASK_KEY, RECORD, *(name for columns in erased.columns(names) for name in columns)}
    return [name for name in names if name in wanted]


def _rule_for(names: Sequence[str], erased: Erased) -> Callable[[pa.RecordBatch], Any] | None:
    """Tells the rows of a batch that are meant."""
    if TASK_KEY in names:
        return lambda batch: _mask(batch[TASK_KEY], erased.key)
    if RECORD in names:
        return lambda batch: _mask(batch[RECORD], erased.refused_record)
    definitions = erased.columns(names)
    if not definitions:
        return None

    def by_columns(batch: pa.RecordBatch) -> Any:
        mask = np.zeros(len(batch), np.bool_)
        for columns, prefix in definitions.items():
            parts = [arrow_keys.as_keys(batch[name]) for name in columns]
            mask |= _mask(arrow_keys.join_keys(parts), erased.key, prefix)
        return mask

    return by_columns


def _mask(column: pa.Array, meant: Callable[[bytes], bool], prefix: str = "") -> Any:
    values = column.to_pylist()
    encoded = (f"{prefix}{v}".encode() if isinstance(v, str) else v for v in values)
    return np.fromiter((v is not None and meant(v) for v in encoded), np.bool_, len(values))


def kept_rows(path: str, erased: Erased, write: bool) -> int | None:
    """Rows beside task records, or None for another Arrow file; their index goes with them."""
    stem = path.removesuffix(".arrow")
    if not files.exists(f"{stem}.npy"):
        return None
    with open_file(path) as raw:
        content = bytes(raw.read())
    reader = pa.ipc.open_file(pa.py_buffer(content)) if content else None
    batches = (
        [] if reader is None else [reader.get_batch(i) for i in range(reader.num_record_batches)]
    )
    masks = [_kept_mask(batch, path.split("/")[-2], erased) for batch in batches]
    count = sum(int(mask.sum()) for mask in masks)
    if count and write:
        with kept_rows_module.writing(stem) as writer:
            for batch, mask in zip(batches, masks, strict=True):
                table = pa.Table.from_batches([batch.filter(pa.array(~mask))])
                codes, keys = columnar.codes_of(table[TASK])
                edges = np.searchsorted(codes, np.arange(len(keys) + 1))
                writer.add(table, keys, edges[:-1], edges[1:])
    return count


def _kept_mask(batch: pa.RecordBatch, definition: str, erased: Erased) -> Any:
    """Which rows are of a task that is meant, or name one."""
    others = {
        name: name.removeprefix(beside_column(""))
        for name in batch.schema.names
        if name.startswith(beside_column(""))
    }
    if not others:
        return _mask(batch[TASK], erased.key)
    mask = _mask(batch[TASK], functools.partial(erased.key_of, definition))
    for column, other in others.items():
        mask |= _mask(batch[column], functools.partial(erased.key_of, other))
    return mask


def update_state(path: str, erased: Erased, write: bool) -> int:
    """The state of `limaml update`; waits for one that is running.

    Counts tasks that go, and those that lose rows which name a key.
    """
    folder = Path(path).parent
    changed: dict[str, pa.RecordBatch | None] = {}
    lock = exclusive(folder.parent.parent, wait=True)
    with lock, contextlib.closing(UpdateState(folder)) as state:
        for prefix in state.prefixes():
            for key, rows in state.tasks(prefix).items():
                if erased.key(f"{prefix}{key}".encode()):
                    changed[f"{prefix}{key}"] = None
                elif (gone := _naming(rows, prefix, erased)).any():
                    left = None if gone.all() else rows.filter(pa.array(~gone))
                    changed[f"{prefix}{key}"] = left
        if changed and write:
            state.write_anew(changed)
    return len(changed)


def _naming(rows: pa.RecordBatch, prefix: str, erased: Erased) -> Any:
    """Which rows of a task name one of the other definition that is meant."""
    mask = np.zeros(len(rows), np.bool_)
    for name in rows.schema.names:
        if name.startswith(beside_column("")):
            other = "" if prefix else joint_key_prefix(name.removeprefix(beside_column("")))
            mask |= _mask(rows[name], erased.key, other)
    return mask


def kind_of(path: str) -> Callable[[str, Erased, bool], int | None] | None:
    """The function for a file, by its name; None for a kind that is not searched."""
    name = path.rsplit("/", 1)[-1].lower()
    if ".tfrecord" in name:
        return task_records
    if name.endswith(".arrow"):
        return kept_rows
    if path.endswith("updates/rows/data.mdb"):
        return update_state
    return json_lines if name.endswith(".jsonl") else parquet if name.endswith(".parquet") else None


def schema_above(path: str, root: str) -> tuple[Schema, tuple[str, ...]] | None:
    """The schema in the folder of a file, or in one above it up to `root`, and the task
    definitions that the folder holds records of, where it says so.
    """
    folder = path.rsplit("/", 1)[0]
    for candidate in _upwards(folder, root):
        found = _schema_in(candidate)
        if found is not None:
            return found
    return None


@functools.lru_cache(maxsize=1024)
def _schema_in(folder: str) -> tuple[Schema, tuple[str, ...]] | None:
    path = files.join(folder, SCHEMA_FILE)
    text = files.read_text(path)
    if text is None:
        return None
    card = json.loads(files.read_text(files.join(folder, DATA_CARD_FILE)) or "{}")
    definitions = tuple(card.get("settings", {}).get("definitions", ()))
    return Schema.from_yaml(text, path), definitions


def _upwards(folder: str, root: str) -> Iterator[str]:
    root = root.rstrip("/")
    while True:
        yield folder
        if folder == root or "/" not in folder or not folder.startswith(root):
            return
        folder = folder.rsplit("/", 1)[0]
