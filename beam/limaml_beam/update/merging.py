"""Old and new rows of touched tasks, and the records that the nightly run would make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from limaml_beam.build_tasks.grouping import latest
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.writing import encoded, encoder, spans
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import ORDER, TASK, TIME
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import RECENT


def merged(
    old: Sequence[pa.RecordBatch], new: pa.Table, settings: TaskSettings
) -> tuple[pa.Table, int]:
    """The rows to keep of the tasks that have rows which are really new, sorted by task and time;
    and how many of the new ones are duplicates, by content as in the nightly run.
    """
    before = pa.Table.from_batches(old) if old else new.slice(0, 0)
    if before.num_rows and set(before.column_names) != set(new.column_names):
        raise SchemaError(
            f"the kept rows have the columns {sorted(before.column_names)}, new ones "
            f"{sorted(new.column_names)}: the schema has changed; refresh with --keep-rows"
        )
    new = new.select(before.column_names).cast(before.schema)
    table = pa.concat_tables([before, new]).combine_chunks()
    tasks, _ = columnar.codes_of(table[TASK])
    times, order = columnar.to_numpy(table[TIME]), columnar.to_numpy(table[ORDER])
    is_new = np.arange(table.num_rows) >= before.num_rows
    ranking = np.lexsort((is_new, times, order, tasks))
    repeat = np.zeros(len(ranking), np.bool_)
    repeat[1:] = (
        (np.diff(order[ranking]) == 0)
        & (np.diff(times[ranking]) == 0)
        & (np.diff(tasks[ranking]) == 0)
    )
    kept = ranking[~repeat]
    touched = np.unique(tasks[kept[is_new[kept]]])
    duplicates = int(is_new[ranking[repeat]].sum())
    kept = kept[np.isin(tasks[kept], touched)]
    return latest(table.take(pa.array(kept)), settings), duplicates


def records_of(
    table: pa.Table, schema: Schema, settings: TaskSettings
) -> tuple[list[str], list[bytes]]:
    """Keys and recent records of a sorted table of whole tasks; tasks without rows in the window
    have none.
    """
    if not table.num_rows:
        return [], []
    found = spans(table, settings)[RECENT]
    records = encoded(encoder(schema, table), found)
    return found.keys.to_pylist(), records.to_pylist()


def by_task(table: pa.Table) -> list[tuple[str, pa.RecordBatch]]:
    """The rows of each task of a sorted table."""
    batch = table.combine_chunks().to_batches()[0] if table.num_rows else None
    if batch is None:
        return []
    codes, keys = columnar.codes_of(batch[TASK])
    edges = np.searchsorted(codes, np.arange(len(keys) + 1)).tolist()
    return [
        (key, batch.slice(start, stop - start))
        for key, start, stop in zip(keys.to_pylist(), edges[:-1], edges[1:], strict=True)
    ]
