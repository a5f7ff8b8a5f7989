"""Compares the results of updates with those of the nightly run, which are the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.build_tasks.grouping import latest
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.digests import digest
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import TIME
from limaml_beam.update.merging import recent_records
from limaml_beam.update.state import UpdateState, state_folder
from tfrec_limaml.schema.schema import Schema


def reconcile(work: Path, output: str, schema: Schema, settings: TaskSettings) -> dict[str, Any]:
    """Compares the updated tasks with the output of the nightly run.

    Then removes the updates' rows of tasks that the nightly run has too, and of tasks that have
    left its window. Call it within `limaml_beam.io.folder_lock.exclusive`.

    Args:
        work: The work folder.
        output: Output of the nightly run's embedding job.
        schema: The schema of the nightly run's records.
        settings: The settings of these records.

    Returns:
        Numbers of tasks, where *batch* is the nightly run:

        - ``updated_tasks``: all updated tasks; each of them is in one of the next three groups;
        - ``newer_than_batch``: their last rows came after the batch had read the log; these rows
          stay;
        - ``not_in_batch``: the batch lacks them; their rows stay while they are in its window;
        - ``compared``: their records, built from the updates' rows with the batch's settings, are
          compared with the batch's records by digest; ``agreeing`` of them are equal.

        Also ``reconciled_share``, the share of compared tasks that agree; None if no task was
        compared.
    """
    with contextlib.closing(UpdateState(state_folder(work))) as state:
        prefixes = schema.key_prefixes(settings.definitions)
        total = columnar.sum_counts(
            _reconcile_definition(state, output, schema, settings, *definition_and_prefix)
            for definition_and_prefix in prefixes.items()
        )
    compared = total["compared"]
    return {**total, "reconciled_share": total["agreeing"] / compared if compared else None}


def _reconcile_definition(
    state: UpdateState,
    output: str,
    schema: Schema,
    settings: TaskSettings,
    definition: str,
    prefix: str,
) -> dict[str, int]:
    """`reconcile` of one definition, whose keys begin with `prefix` in a store."""
    updated = state.tasks(prefix)
    in_batch = _batch_entries(output, updated, prefix)
    newest = {key: _newest(rows) for key, rows in updated.items()}
    newer_keys = {key for key in updated if key in in_batch and newest[key] > in_batch[key][0]}
    common = [key for key in updated if key in in_batch and key not in newer_keys]
    waiting_keys = {key for key in updated if key not in in_batch and newest[key] >= settings.first}
    agreeing = 0
    if common:
        rows = latest(pa.Table.from_batches([updated[key] for key in common]), settings)
        records = dict(zip(*recent_records(rows, schema, settings, definition), strict=True))
        agreeing = sum(
            key in records and digest(records[key]) == in_batch[key][1] for key in common
        )
    state.remove([f"{prefix}{key}" for key in updated if key not in newer_keys | waiting_keys])
    return {
        "updated_tasks": len(updated),
        "newer_than_batch": len(newer_keys),
        "not_in_batch": len(updated) - len(newer_keys) - len(common),
        "compared": len(common),
        "agreeing": agreeing,
    }


def settings_of(card: Mapping[str, Any]) -> TaskSettings:
    """The settings of the records of a data card."""
    settings = dict(card["settings"])
    settings["definitions"] = tuple(settings["definitions"])
    if settings["task_shares"] is not None:
        settings["task_shares"] = tuple(settings["task_shares"])
    return TaskSettings(**{**settings, "erased": frozenset()})


def _newest(rows: pa.RecordBatch) -> int:
    return int(columnar.to_numpy(rows[TIME]).max())


def _batch_entries(output: str, keys: Iterable[str], prefix: str) -> dict[str, tuple[int, bytes]]:
    """Last interaction and record digest of some tasks."""
    stored = pa.array([f"{prefix}{key}" for key in keys], pa.string())
    digests: dict[str, tuple[int, bytes]] = {}
    columns = ["task_key", "event_timestamp", "record_digest"]
    for batch in tables.read_batches(tables.embedding_files(output), columns):
        rows = batch.filter(pc.is_in(batch["task_key"], value_set=stored))
        times = rows["event_timestamp"].cast(pa.int64()).to_pylist()
        values = zip(times, rows["record_digest"].to_pylist(), strict=True)
        task_keys = (key.removeprefix(prefix) for key in rows["task_key"].to_pylist())
        digests |= zip(task_keys, values, strict=True)
    return digests
