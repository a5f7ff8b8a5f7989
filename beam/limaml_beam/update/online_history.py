"""History features of new rows: the values that the nightly run froze for each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml_beam.build_tasks.key_history import one_row_per_token, stem
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import key_column
from tfrec_limaml.schema import arrow_keys
from tfrec_limaml.schema.schema import History, Schema

_ROW = "__row"


def add_history(block: pa.Table, schema: Schema, settings: TaskSettings, folder: Path) -> pa.Table:
    """A block with its history features as of the nightly run.

    Unknown keys get the values of a key without rows.

    Args:
        block: Rows with their key columns.
        schema: The columns.
        settings: Settings of the update; ``settings.prior`` is the rate of an unknown key.
        folder: ``<tasks>/history``.
    """
    values_by_name: dict[str, Any] = {}
    for history in schema.history:
        values_by_name |= _values(block, schema, history, folder, settings.prior or 0.0)
    for name in sorted(values_by_name):
        block = block.append_column(name, pa.array(values_by_name[name].astype(np.float32)))
    return block


def _values(
    block: pa.Table, schema: Schema, history: History, folder: Path, prior: float
) -> dict[str, Any]:
    keys = {key_column(name): block[key_column(name)] for name in history.keys}
    rows = pa.table({**keys, _ROW: pa.array(np.arange(block.num_rows))})
    rows = one_row_per_token(rows, schema, history)
    codes, distinct = columnar.codes_of(columnar.join_keys(rows, history.keys))
    online = pq.read_table(folder / f"{stem(history)}.parquet")
    online_keys = arrow_keys.join_keys([arrow_keys.as_text(online[name]) for name in history.keys])
    index_of_key = {key: i for i, key in enumerate(online_keys.to_pylist())}
    positions = np.array([index_of_key.get(key, -1) for key in distinct.to_pylist()])[codes]
    row = columnar.to_numpy(rows[_ROW])
    tokens_per_row = np.bincount(row, minlength=block.num_rows)
    values = {}
    unknown = {"rate": prior, "count": 0.0, "recency": -1.0}
    for value, name in history.names().items():
        column = np.append(columnar.to_numpy(online[name]), unknown[value])
        values[name] = np.bincount(row, column[positions], block.num_rows) / tokens_per_row
    return values
