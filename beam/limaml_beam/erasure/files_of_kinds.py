"""Finds the rows of erased task keys in a file, and removes them.

Each kind of file has one function ``(path, erased, write)``: it returns the number of such rows,
and with `write` replaces the file with one without them, completely or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml_beam.build_tasks import kept_rows as kept_rows_module
from limaml_beam.erasure import running
from limaml_beam.erasure.erased_keys import ErasedKeys
from limaml_beam.erasure.record_rows import names_others, task_key_of, without_rows
from limaml_beam.io import files
from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.io.read_errors import open_file
from limaml_beam.io.staged_output import staged_file
from limaml_beam.io.tfrecords import frame_record, gzip_compressor, read_records
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TASK, other_key_column
from limaml_beam.update.state import UpdateState, state_folder
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.task_keys import joint_key_prefix

TASK_KEY, RECORD = "task_key", "record"
Kind: TypeAlias = "Callable[[str, ErasedKeys, bool], int]"


def task_records(path: str, erased: ErasedKeys, write: bool) -> int | None:
    """A TFRecord file of task records; None if its first record is another one.

    Counts removed records, and records of other tasks that lose rows which name a key.

    Raises:
        LimamlError: A later record is not a task record.
    """
    count = 0
    for index, record in enumerate(read_records(path)):
        if task_key_of(record) is None:
            if index == 0:
                return None
            raise LimamlError(
                f"cannot search {path}: record {index} is damaged; remove it, or replace it"
            )
        count += _without_erased_rows(record, path, erased) is not record
    if count and write:
        compressor = gzip_compressor()
        compressed = ".gz" in path.rsplit("/", 1)[-1].lower()
        with staged_file(path) as file:
            for record in read_records(path):
                remaining = _without_erased_rows(record, path, erased)
                if remaining is not None:
                    frame = frame_record(remaining)
                    file.write(compressor.compress(frame) if compressed else frame)
            if compressed:
                file.write(compressor.flush())
    return count


def _without_erased_rows(record: bytes, path: str, erased: ErasedKeys) -> bytes | None:
    """The rest of a record: the record itself, one with fewer rows, or nothing."""
    key = task_key_of(record) or b""
    if not names_others(record):
        return None if erased.matches_key(key) else record
    if not erased.may_match_record(record):
        return record
    definition = _definition(path)
    if erased.matches_key_of(definition, key):
        return None
    return without_rows(record, erased.matches_key_of)


def _definition(path: str) -> str:
    """The task definition of a file of tasks: the name of its folder."""
    return posixpath.basename(posixpath.dirname(path if "://" in path else os.path.abspath(path)))


def json_lines(path: str, erased: ErasedKeys, write: bool) -> int:
    """Dead letters of `limaml prepare` and `limaml update`."""
    count = sum(is_erased for _, is_erased in _marked_lines(path, erased))
    if count and write:
        with running.without_updates(path):  # and again with the lines of a running one
            marked = _marked_lines(path, erased)
            with staged_file(path) as file:
                file.write(b"".join(line for line, is_erased in marked if not is_erased))
        count = sum(is_erased for _, is_erased in marked)
    return count


def _marked_lines(path: str, erased: ErasedKeys) -> list[tuple[bytes, bool]]:
    """The lines of a file, and whether each is to be erased."""
    with open_file(path) as file:
        lines = bytes(file.read()).splitlines(keepends=True)
    return [(line, _is_erased_line(line, erased)) for line in lines]


def _is_erased_line(line: bytes, erased: ErasedKeys) -> bool:
    try:
        letter = json.loads(line)
        return "row" in letter and erased.matches_row(letter["row"])
    except (ValueError, TypeError):
        return erased.matches_text(line.decode(errors="replace"))


def parquet(path: str, erased: ErasedKeys, write: bool) -> int | None:
    """A Parquet file: embeddings, dead letters of `limaml embed`, or a table with key columns.

    None if it has none of these columns and, without a schema, the key columns are unknown.
    """
    with files.open_binary(path) as raw, pq.ParquetFile(raw) as file:
        names = file.schema_arrow.names
        mask_of = _mask_function(names, erased)
        if mask_of is None:
            return 0 if erased.has_definitions else None
        columns = _columns_needed(names, erased)
        count = sum(int(mask_of(b).sum()) for b in file.iter_batches(columns=columns))
        if count and write:
            with staged_file(path) as target, pq.ParquetWriter(target, file.schema_arrow) as writer:
                for batch in file.iter_batches():
                    writer.write_batch(batch.filter(pa.array(~mask_of(batch))))
    return count


def _columns_needed(names: Sequence[str], erased: ErasedKeys) -> list[str]:
    needed = {
        TASK_KEY,
        RECORD,
        *(name for columns in erased.key_columns(names) for name in columns),
    }
    return [name for name in names if name in needed]


def _mask_function(
    names: Sequence[str], erased: ErasedKeys
) -> Callable[[pa.RecordBatch], Any] | None:
    """A function that marks the rows to erase in a batch."""
    if TASK_KEY in names:
        return lambda batch: _mask(batch[TASK_KEY], erased.matches_key)
    if RECORD in names:
        return lambda batch: _mask(batch[RECORD], erased.matches_dead_letter)
    definitions = erased.key_columns(names)
    if not definitions:
        return None

    def by_columns(batch: pa.RecordBatch) -> Any:
        mask = np.zeros(len(batch), np.bool_)
        for columns, prefix in definitions.items():
            parts = [arrow_keys.as_keys(batch[name]) for name in columns]
            mask |= _mask(arrow_keys.join_keys(parts), erased.matches_key, prefix)
        return mask

    return by_columns


def _mask(column: pa.Array, is_erased: Callable[[bytes], bool], prefix: str = "") -> Any:
    values = column.to_pylist()
    encoded = (f"{prefix}{v}".encode() if isinstance(v, str) else v for v in values)
    return np.fromiter((v is not None and is_erased(v) for v in encoded), np.bool_, len(values))


def kept_rows(path: str, erased: ErasedKeys, write: bool) -> int | None:
    """Rows beside task records, or None for another Arrow file; their index is rewritten too."""
    stem = path.removesuffix(".arrow")
    if not files.exists(f"{stem}.npy"):
        return None
    with open_file(path) as raw:
        content = bytes(raw.read())
    reader = pa.ipc.open_file(pa.py_buffer(content)) if content else None
    batches = (
        [] if reader is None else [reader.get_batch(i) for i in range(reader.num_record_batches)]
    )
    definition = _definition(path)
    masks = [_kept_mask(batch, definition, erased) for batch in batches]
    count = sum(int(mask.sum()) for mask in masks)
    if write and (count or not kept_rows_module.has_index_of(stem, sum(map(len, batches)))):
        with running.without_updates(path), kept_rows_module.writing(stem) as writer:
            for batch, mask in zip(batches, masks, strict=True):
                table = pa.Table.from_batches([batch.filter(pa.array(~mask))])
                codes, keys = columnar.codes_of(table[TASK])
                edges = np.searchsorted(codes, np.arange(len(keys) + 1))
                writer.add(table, keys, edges[:-1], edges[1:])
    return count


def _kept_mask(batch: pa.RecordBatch, definition: str, erased: ErasedKeys) -> Any:
    """Which rows belong to a task to erase, or name one."""
    other_definitions = {
        name: name.removeprefix(other_key_column(""))
        for name in batch.schema.names
        if name.startswith(other_key_column(""))
    }
    if not other_definitions:
        return _mask(batch[TASK], erased.matches_key)
    mask = _mask(batch[TASK], functools.partial(erased.matches_key_of, definition))
    for column, definition_of_column in other_definitions.items():
        mask |= _mask(batch[column], functools.partial(erased.matches_key_of, definition_of_column))
    return mask


def update_state(path: str, erased: ErasedKeys, write: bool) -> int:
    """The state of `limaml update`; waits for a running one.

    Counts removed tasks, and tasks that lose rows which name a key.
    """
    folder = Path(path).parent
    replacements: dict[str, pa.RecordBatch | None] = {}
    lock = exclusive(folder.parent.parent, UPDATE, wait=True)
    with lock, contextlib.closing(UpdateState(folder)) as state:
        for prefix in state.prefixes():
            for key, rows in state.tasks(prefix).items():
                if erased.matches_key(f"{prefix}{key}".encode()):
                    replacements[f"{prefix}{key}"] = None
                elif (mask := _mask_of_names(rows, prefix, erased)).any():
                    remaining = None if mask.all() else rows.filter(pa.array(~mask))
                    replacements[f"{prefix}{key}"] = remaining
        if write:  # also without replacements: unused pages keep what was removed earlier
            state.rewrite(replacements)
    return len(replacements)


def _mask_of_names(rows: pa.RecordBatch, prefix: str, erased: ErasedKeys) -> Any:
    """Which rows of a task name a task to erase of the other definition."""
    mask = np.zeros(len(rows), np.bool_)
    for name in rows.schema.names:
        if name.startswith(other_key_column("")):
            other_prefix = (
                "" if prefix else joint_key_prefix(name.removeprefix(other_key_column("")))
            )
            mask |= _mask(rows[name], erased.matches_key, other_prefix)
    return mask


def kind_of(path: str) -> Callable[[str, ErasedKeys, bool], int | None] | None:
    """The function for a file, by its name; None for a kind that is not searched."""
    name = path.rsplit("/", 1)[-1].lower()
    if ".tfrecord" in name:
        return task_records
    if name.endswith(".arrow"):
        return kept_rows
    if path.endswith(f"{state_folder(Path())}/data.mdb"):
        return update_state
    return json_lines if name.endswith(".jsonl") else parquet if name.endswith(".parquet") else None
