"""Reads and validates rows: each becomes a row of a block, or a dead letter with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.metrics import Metrics

from limaml_beam.build_tasks.quality import counts_under
from limaml_beam.build_tasks.row_checks import (
    ERASED,
    MALFORMED,
    OUTSIDE,
    UNREADABLE,
    interaction_columns,
    validate,
)
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.unreadable import unreadable_values
from limaml_beam.io import progress
from limaml_beam.io.sources import Part, Source, read_part
from limaml_beam.rows.feature_tables import load_tables
from tfrec_limaml.datasets.rows import BadRow
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.schema.schema import Schema

REJECTED, COUNTS, UNREADABLE_VALUES = "rejected", "counts", "unreadable"


class ReadAndValidate(beam.DoFn):
    """Part of an interactions file -> blocks of valid rows.

    Dead letters, counts and, of a job without evaluation rows, descriptions of unreadable values
    are tagged outputs. Joined columns are checked, but left out of the blocks; see
    `limaml_beam.rows.feature_tables`.
    """

    def __init__(
        self,
        schema: Schema,
        settings: TaskSettings,
        tables: Mapping[str, Source],
        text: TextFormat | None = None,
    ) -> None:
        self.schema = schema
        self.settings = settings
        self.sources = dict(tables)
        self.text = text

    def setup(self) -> None:
        """Loads the feature tables."""
        self.tables = load_tables(self.schema, self.sources)

    def process(self, part: Part) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
        """Reads one part of a file."""
        columns = interaction_columns(self.schema, self.settings.definitions)
        carry, batch_rows = self.schema.carry, self.settings.batch_rows
        for rows in read_part(part, columns, batch_rows, self.text, carry):
            if not rows.count:  # the columns of a file before its rows
                continue
            progress.advance("reading", rows.count)
            block, reasons, counts = validate(self.schema, self.settings, self.tables, rows.table)
            counts["rows_read"] = rows.count
            for bad in rows.bad:
                name = f"skipped:{MALFORMED}:{bad.reason}"
                counts[name] = counts.get(name, 0) + 1
                yield beam.pvalue.TaggedOutput(REJECTED, malformed(part[0], bad))
            for name, number in counts.items():
                Metrics.counter("build_tasks", name).inc(number)
            yield beam.pvalue.TaggedOutput(COUNTS, counts)
            names = list(counts_under(counts, UNREADABLE))
            if names and self.settings.recent_only:  # other data cards do not describe them
                described = unreadable_values(self.schema, rows.table, reasons == "", names)
                yield beam.pvalue.TaggedOutput(UNREADABLE_VALUES, described)
            for letter in dead_letters(part[0], rows.table, reasons):
                yield beam.pvalue.TaggedOutput(REJECTED, letter)
            if block.num_rows:
                yield block


def malformed(path: str, bad: BadRow) -> str:
    """The dead letter of a line that is not a table row."""
    reason = f"{MALFORMED}:{bad.reason}"
    letter = {"reason": reason, "file": path, "line": bad.line, "row": bad.text}
    return json.dumps(letter, ensure_ascii=False)


def dead_letters(
    source: str | Sequence[str], raw: pa.Table, reasons: npt.NDArray[np.object_]
) -> Iterator[str]:
    """The dead letters of the rows of a raw table that have a reason.

    `source` is their file, or the origin of each row.
    """
    rejected = np.flatnonzero((reasons != "") & (reasons != OUTSIDE) & (reasons != ERASED))
    if not len(rejected):
        return
    rows = raw.take(pa.array(rejected)).to_pylist()
    for position, row in zip(rejected, rows, strict=True):
        file = source if isinstance(source, str) else source[int(position)]
        letter = {"reason": reasons[position], "file": file, "row": row}
        yield json.dumps(letter, default=str, ensure_ascii=False)
