"""New interactions: read, validated and joined by the code of `limaml prepare`, in this process.

They come from files, or as messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from limaml_beam.build_tasks.grouping import keyed
from limaml_beam.build_tasks.history import DIRECTORY
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.kept_rows import decode_dictionaries
from limaml_beam.build_tasks.quality import counts_under
from limaml_beam.build_tasks.row_checks import (
    FILLED,
    OUTSIDE,
    UNKNOWN_KEY,
    UNREADABLE,
    interaction_columns,
    validate,
)
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.unreadable import add_unreadable, unreadable_values
from limaml_beam.build_tasks.validation import UNREADABLE_VALUES, dead_letters, malformed
from limaml_beam.io.read_errors import MissingColumnsError, SourceError
from limaml_beam.io.sources import Source, parts_of_file, read_part
from limaml_beam.refresh import unreadable_days
from limaml_beam.rows import columnar
from limaml_beam.rows.feature_tables import Tables, join, load_tables
from limaml_beam.update.dead_letters import UNREADABLE_FILE, file_letter
from limaml_beam.update.messages import Message, decode
from limaml_beam.update.online_history import add_history
from tfrec_limaml.schema.column_times import as_milliseconds
from tfrec_limaml.schema.schema import Schema

#: Reasons of dead letters in addition to those of `limaml prepare`.
FUTURE, UNKNOWN_SCHEMA = "future_time", "unknown_schema"


@dataclasses.dataclass
class NewRows:
    """The rows of some files or messages.

    Attributes:
        tables: Valid rows with their task keys, in the form of `kept_rows`, by task definition.
        read: Rows that were read.
        skipped: Rows left out, by reason; files that cannot be read count as one.
        letters: Dead letters, JSON lines.
        unread: Files that could not be read.
        due: Tasks that lost rows which left the window.
        counts: Counts of the rows read, by name; see `validate`.
        unreadable: Descriptions of unreadable values, from `unreadable_values`.
    """

    tables: dict[str, pa.Table] = dataclasses.field(default_factory=dict)
    read: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    letters: list[str] = dataclasses.field(default_factory=list)
    unread: int = 0
    due: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: list[dict[str, dict[str, Any]]] = dataclasses.field(default_factory=list)

    @property
    def used(self) -> int:
        """Rows that were read and not left out."""
        return self.read + self.unread - sum(self.skipped.values())

    def skip(self, reason: str, count: int = 1) -> None:
        """Counts rows that are left out."""
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def report(self, schema: Schema) -> dict[str, Any]:
        """What an update says of its rows.

        Returns:
            ``rows``; ``filled``, ``unreadable`` and ``unknown_keys``, which are counts of the rows
            read, by feature and by table; and ``warnings`` about unreadable values.
        """
        described = {UNREADABLE_VALUES: add_unreadable(self.unreadable)}
        return {
            "rows": {"read": self.read, "used": self.used, "skipped": self.skipped},
            "filled": counts_under(self.counts, FILLED),
            "unreadable": counts_under(self.counts, UNREADABLE),
            "unknown_keys": counts_under(self.counts, UNKNOWN_KEY),
            "warnings": unreadable_days.warnings(described, schema),
        }


def read_new(inputs: Inputs, schema: Schema, settings: TaskSettings, tasks: Path) -> NewRows:
    """Reads new interactions.

    Args:
        inputs: Files of the interactions, which may lack passthrough columns, and of the feature
            tables.
        schema: The columns.
        settings: Dates and the task definitions; rows at or after ``settings.last`` are dead
            letters.
        tasks: The nightly run's records, with the values of history features.
    """
    tables = load_tables(schema, inputs.tables)
    columns, optional = _columns(schema, settings)
    text, size = inputs.interactions.text, settings.batch_rows
    new_rows, blocks = NewRows(), []
    for path in inputs.interactions.files:
        try:
            for part in parts_of_file(path):
                for rows in read_part(part, columns, size, text, optional=optional):
                    new_rows.read += rows.count
                    for bad in rows.bad:
                        new_rows.skip(f"malformed_row:{bad.reason}")
                        new_rows.letters.append(malformed(path, bad))
                    blocks.append(_validated(schema, settings, tables, path, rows.table, new_rows))
        except SourceError as error:
            columns_missing = isinstance(error, MissingColumnsError)
            reason = UNKNOWN_SCHEMA if columns_missing else UNREADABLE_FILE
            new_rows.skip(reason)
            new_rows.unread += 1
            new_rows.letters.append(file_letter(path, reason, error))
    blocks = [block for block in blocks if block.num_rows]
    if blocks:
        new_rows.tables = _completed(pa.concat_tables(blocks), schema, settings, tables, tasks)
    return new_rows


def read_messages(
    messages: Sequence[Message],
    sources: Mapping[str, Source],
    schema: Schema,
    settings: TaskSettings,
    tasks: Path,
    version: int,
) -> NewRows:
    """Decodes new interactions.

    Args:
        messages: The messages; they may lack passthrough columns.
        sources: Files of the feature tables.
        schema: The columns.
        settings: As in `read_new`.
        tasks: As in `read_new`.
        version: Model version of the updater.
    """
    tables = load_tables(schema, sources)
    columns, optional = _columns(schema, settings)
    raw, poison = decode(messages, columns, version, optional)
    new_rows = NewRows(read=len(messages))
    for bad_message in poison:
        new_rows.skip(bad_message.reason)
        new_rows.letters.append(bad_message.letter())
    if raw is not None:
        unused = {id(bad_message.message) for bad_message in poison}
        sources_of_rows = [m.source for m in messages if id(m) not in unused]
        block = _validated(schema, settings, tables, sources_of_rows, raw, new_rows)
        if block.num_rows:
            new_rows.tables = _completed(block, schema, settings, tables, tasks)
    return new_rows


def _columns(schema: Schema, settings: TaskSettings) -> tuple[tuple[str, ...], set[str]]:
    """The columns that are read, and those of them that files and messages may lack.

    These are passthrough columns that are nothing else.
    """
    columns = interaction_columns(schema, settings.definitions)
    needed = interaction_columns(dataclasses.replace(schema, carry=()), settings.definitions)
    return columns, set(columns).difference(needed)


def _validated(
    schema: Schema,
    settings: TaskSettings,
    tables: Tables,
    source: str | Sequence[str],
    raw: pa.Table,
    new_rows: NewRows,
) -> pa.Table:
    block, reasons, counts = validate(schema, settings, tables, raw)
    new_rows.counts = columnar.sum_counts([new_rows.counts, counts])
    if names := list(counts_under(counts, UNREADABLE)):
        new_rows.unreadable.append(unreadable_values(schema, raw, reasons == "", names))
    outside = reasons == OUTSIDE
    if outside.any():
        times, _ = as_milliseconds(raw[schema.timestamp], schema.timestamp_unit)
        reasons[outside & (times >= settings.last)] = FUTURE
    distinct, numbers = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    for name, number in zip(distinct.tolist(), numbers.tolist(), strict=True):
        new_rows.skip(name, number)
    new_rows.letters += dead_letters(source, raw, reasons)
    return block


def _completed(
    block: pa.Table, schema: Schema, settings: TaskSettings, tables: Tables, tasks: Path
) -> dict[str, pa.Table]:
    """The block by task definition, in the form that the writer of records takes.

    Task keys, history features and the columns of the feature tables are added.
    """
    if schema.history:
        block = add_history(block, schema, settings, tasks / DIRECTORY)
    rows_by_definition = {}
    for definition in settings.definitions:
        rows = keyed(block, schema, definition, settings.definitions)
        rows_by_definition[definition] = decode_dictionaries(
            join(schema, tables, rows)
        ).combine_chunks()
    return rows_by_definition
