"""Merges old and new rows of tasks, and builds the records that the nightly run would build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks.grouping import latest
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.writing import encoded, encoder, spans
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import LABEL, ORDER, TASK, TIME, WEIGHT
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.store.erasure import Tombstones
from tfrec_limaml.tasks.folder import RECENT


def merge_rows(
    old: Sequence[pa.RecordBatch],
    new: pa.Table | None,
    schema: Schema,
    settings: TaskSettings,
    due: Sequence[str] = (),
) -> tuple[pa.Table | None, int]:
    """Merges old and new rows as the nightly run would.

    Returns:
        The rows to keep of tasks with new rows and of tasks that are `due`, sorted by task and
        time, None without any; and the number of new rows that are duplicates by content.
    """
    old_table = pa.Table.from_batches(old) if old else None
    if new is None:
        if old_table is None:
            return None, 0
        new = old_table.slice(0, 0)
    table = new if old_table is None else _concatenate(old_table, new)
    tasks, keys = columnar.codes_of(table[TASK])
    times, order = columnar.to_numpy(table[TIME]), _contents(table, schema)
    is_new = np.arange(table.num_rows) >= (0 if old_table is None else old_table.num_rows)
    ranking = np.lexsort((is_new, times, order, tasks))
    repeat = np.zeros(len(ranking), np.bool_)
    repeat[1:] = (
        (np.diff(order[ranking]) == 0)
        & (np.diff(times[ranking]) == 0)
        & (np.diff(tasks[ranking]) == 0)
    )
    unique = ranking[~repeat]
    due_codes = (
        [code for code, key in enumerate(keys.to_pylist()) if key in set(due)] if due else []
    )
    affected = np.union1d(tasks[unique[is_new[unique]]], due_codes)
    duplicates = int(is_new[ranking[repeat]].sum())
    unique = unique[np.isin(tasks[unique], affected)]
    return latest(table.take(pa.array(unique)), settings), duplicates


def _contents(table: pa.Table, schema: Schema) -> npt.NDArray[Any]:
    """A hash of each row's content ``[n]``.

    A row that lacks a passthrough value, as new rows may, has the hash of a row that lacks none and
    is equal to it in everything else: they are one interaction.
    """
    order = columnar.to_numpy(table[ORDER])
    lacks = np.zeros(len(order), np.bool_)
    for name in schema.carry:
        lacks |= np.isnan(columnar.to_numpy(table[name]))
    if lacks.all() or not lacks.any():
        return order
    names = [feature.name for feature in schema.features if feature.table is None]
    names += [TIME, LABEL] if schema.weight is None else [TIME, LABEL, WEIGHT]
    keys = (TASK, columnar.key_column(""))  # also the row's tasks under other definitions
    names += [name for name in table.column_names if name.startswith(keys)]
    others = columnar.mix_hashes([columnar.stable_hash(table[name]) for name in names])
    whole = dict(zip(others[~lacks].tolist(), order[~lacks].tolist(), strict=True))
    contents = order.copy()
    pairs = zip(others[lacks].tolist(), order[lacks].tolist(), strict=True)
    contents[lacks] = [whole.get(of_others, own) for of_others, own in pairs]
    return contents


def _concatenate(before: pa.Table, new: pa.Table) -> pa.Table:
    if set(before.column_names) != set(new.column_names):
        raise SchemaError(
            f"the kept rows have the columns {sorted(before.column_names)}, new ones "
            f"{sorted(new.column_names)}: the schema has changed; refresh with --keep-rows"
        )
    new = new.select(before.column_names).cast(before.schema)
    return pa.concat_tables([before, new]).combine_chunks()


def without_erased_others(
    batches: Sequence[pa.RecordBatch],
    schema: Schema,
    settings: TaskSettings,
    definition: str,
) -> list[pa.RecordBatch]:
    """Kept rows without those whose other task was erased since they were kept."""
    tombstones = Tombstones(settings.erased)
    other_definitions = schema.other_definitions(definition, settings.definitions)
    if not len(tombstones) or not other_definitions:
        return list(batches)
    prefixes = schema.key_prefixes(settings.definitions)
    remaining = []
    for batch in batches:
        mask = np.zeros(len(batch), np.bool_)
        for name in other_definitions:
            keys = batch[columnar.other_key_column(name)].to_pylist()
            mask |= tombstones.matches([f"{prefixes[name]}{key}".encode() for key in keys])
        remaining.append(batch.filter(pa.array(~mask)))
    return [batch for batch in remaining if len(batch)]


def recent_records(
    table: pa.Table | None, schema: Schema, settings: TaskSettings, definition: str
) -> tuple[list[str], list[bytes]]:
    """Keys and recent records of a sorted table of whole tasks.

    Tasks without rows in the window have no record.
    """
    if table is None or not table.num_rows:
        return [], []
    recent = spans(table, settings)[RECENT]
    other_definitions = schema.other_definitions(definition, settings.definitions)
    records = encoded(encoder(schema, table, other_definitions), recent)
    return recent.keys.to_pylist(), records.to_pylist()
