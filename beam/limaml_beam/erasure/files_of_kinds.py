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
from limaml_beam.erasure.task_key import task_key_of
from limaml_beam.io import files
from limaml_beam.io.read_errors import open_file
from limaml_beam.io.staged_output import staged_file
from limaml_beam.io.tfrecords import frame_record, read_records
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK
from limaml_beam.update.job import exclusive
from limaml_beam.update.state import UpdateState
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import decode_task_key, task_key
from tfrec_limaml.store.erasure import is_meant
from tfrec_limaml.tasks.folder import SCHEMA_FILE

TASK_KEY, RECORD = "task_key", "record"
#: What the name of a list of other definitions' keys begins with; see `record_format.key_list`.
_NAMES_OTHERS = b"task_key:"
_COMPRESSION = 1  # as `limaml prepare` writes
Kind: TypeAlias = "Callable[[str, Erased, bool], int]"


class Erased:
    """The keys to erase, and how rows of any form are recognised.

    Args:
        keys: Task keys.
        schemas: Schemas of the folders, whose task definitions make keys of columns.
    """

    def __init__(self, keys: Sequence[str], schemas: Sequence[Schema] = ()) -> None:
        self._keys = frozenset(key.encode() for key in keys)
        words = {part for key in keys for part in _parts(key)[:1]}
        alternatives = "|".join(map(re.escape, sorted(words))) or r"(?!)"
        self._words = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
        self._definitions = {
            schema.task_columns(definition) for schema in schemas for definition in schema.tasks
        }

    def with_schema(self, schema: Schema) -> Erased:
        """The same keys for files beside a schema."""
        made = Erased(())
        made._keys, made._words = self._keys, self._words
        made._definitions = {schema.task_columns(definition) for definition in schema.tasks}
        return made

    @property
    def has_definitions(self) -> bool:
        """Whether a schema says which columns make task keys."""
        return bool(self._definitions)

    def key(self, key: bytes) -> bool:
        """Whether a task key is meant."""
        return is_meant(key, self._keys)

    def refused_record(self, record: bytes) -> bool:
        """Whether a record among dead letters is meant; one whose key cannot be read is, where it
        holds the first part of a key as a word.
        """
        key = task_key_of(record)
        return self.text(record.decode(errors="replace")) if key is None else self.key(key)

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
            task_key([row[column] for column in columns])
            for columns in self._definitions
            if all(column in row for column in columns)
        ]
        if not made or None in made:
            return self.text(json.dumps(row, ensure_ascii=False))
        return any(self.key(key.encode()) for key in made if key is not None)

    def columns(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Key columns of the task definitions that a table with these columns holds keys of."""
        return [columns for columns in self._definitions if set(columns) <= set(names)]


def _parts(key: str) -> tuple[str, ...]:
    """The values that a key was made of; see `joint_key_prefix`."""
    return decode_task_key(key)[2 if key.startswith("%|") else 0 :]


def task_records(path: str, erased: Erased, write: bool) -> int | None:
    """A TFRecord file of task records; None where it holds other records.

    Raises:
        LimamlError: Rows of the records name tasks of another definition too.
    """
    count = 0
    for record in read_records(path):
        key = task_key_of(record)
        if key is None:
            return None
        if _NAMES_OTHERS in record:
            raise LimamlError(
                f"{path} holds records of two definitions, whose rows name tasks of the other one: "
                "they are not taken out row by row; delete the folder, and prepare it anew "
                "(`limaml refresh` leaves erased tasks out)"
            )
        count += erased.key(key)
    if count and write:
        squeeze = isal_zlib.compressobj(_COMPRESSION, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
        packed = ".gz" in path.rsplit("/", 1)[-1].lower()
        with staged_file(path) as file:
            for record in read_records(path):
                if not erased.key(task_key_of(record) or b""):
                    framed = frame_record(record)
                    file.write(squeeze.compress(framed) if packed else framed)
            if packed:
                file.write(squeeze.flush())
    return count


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
        for columns in definitions:
            parts = [arrow_keys.as_keys(batch[name]) for name in columns]
            mask |= _mask(arrow_keys.join_keys(parts), erased.key)
        return mask

    return by_columns


def _mask(column: pa.Array, meant: Callable[[bytes], bool]) -> Any:
    values = column.to_pylist()
    encoded = (v.encode() if isinstance(v, str) else v for v in values)
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
    masks = [_mask(batch[TASK], erased.key) for batch in batches]
    count = sum(int(mask.sum()) for mask in masks)
    if count and write:
        with kept_rows_module.writing(stem) as writer:
            for batch, mask in zip(batches, masks, strict=True):
                table = pa.Table.from_batches([batch.filter(pa.array(~mask))])
                codes, keys = columnar.codes_of(table[TASK])
                edges = np.searchsorted(codes, np.arange(len(keys) + 1))
                writer.add(table, keys, edges[:-1], edges[1:])
    return count


def update_state(path: str, erased: Erased, write: bool) -> int:
    """The state of `limaml update`; raises `LimamlError` where one is running."""
    folder = Path(path).parent
    with exclusive(folder.parent.parent), contextlib.closing(UpdateState(folder)) as state:
        keys = [key for key, _ in state.tasks() if erased.key(key.encode())]
        if keys and write:
            state.write_anew_without(keys)
    return len(keys)


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


def schema_above(path: str, root: str) -> Schema | None:
    """The schema in the folder of a file, or in one above it up to `root`."""
    folder = path.rsplit("/", 1)[0]
    for candidate in _upwards(folder, root):
        schema = _schema_in(candidate)
        if schema is not None:
            return schema
    return None


@functools.lru_cache(maxsize=1024)
def _schema_in(folder: str) -> Schema | None:
    path = files.join(folder, SCHEMA_FILE)
    text = files.read_text(path)
    return None if text is None else Schema.from_yaml(text, path)


def _upwards(folder: str, root: str) -> Iterator[str]:
    root = root.rstrip("/")
    while True:
        yield folder
        if folder == root or "/" not in folder or not folder.startswith(root):
            return
        folder = folder.rsplit("/", 1)[0]
