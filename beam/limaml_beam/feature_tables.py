"""Feature tables: in the memory of every worker, joined by look-up, as late as possible.

Shuffles carry interactions without their joined columns; validation, statistics and the writer look them up again. That
keeps rows narrow where bytes cost most. The limit: a table must fit into a worker's memory.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from limaml_beam import values
from limaml_beam.columnar import Mask, key_column
from limaml_beam.sources import Source, SourceError, read_tables
from tfrec_limaml.schema import Feature, Schema

_BATCH_ROWS = 65_536

Tables = Mapping[str, "FeatureTable"]


def owner(schema: Schema, column: str) -> str | None:
    """The feature table that holds a column; None for the interactions."""
    return next((f.table for f in schema.features if f.name == column), None)


def table_columns(schema: Schema, table: str) -> tuple[str, ...]:
    """Columns that the files of a feature table must have."""
    return tuple(dict.fromkeys([schema.tables[table], *(f.name for f in schema.features if f.table == table)]))


class FeatureTable:
    """One feature table in memory, validated, indexed by its key as text."""

    def __init__(self, schema: Schema, name: str, source: Source) -> None:
        columns = table_columns(schema, name)
        parts = [part for path in source.files for part in read_tables((path, None), columns, _BATCH_ROWS)]
        if not parts:
            raise SourceError(f"table {name!r} ({', '.join(source.files)}) has no rows")
        raw = pa.concat_tables(parts, promote_options="permissive")
        key = schema.tables[name]
        self.index = pd.Index(values.as_text(raw[key]).to_numpy(zero_copy_only=False))
        if not self.index.is_unique:
            twice = self.index[self.index.duplicated()][0]
            raise SourceError(f"table {name!r} holds the key {key} = {twice!r} more than once; one row per key is needed")
        self.columns = {f.name: values.as_feature(raw[f.name], f) for f in schema.features if f.table == name}

    def find(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """Row of each key, -1 where the table has none."""
        return np.asarray(self.index.get_indexer(pd.Index(keys.to_numpy(zero_copy_only=False))), np.int64)

    def invalid(self, feature: Feature, rows: npt.NDArray[np.int64]) -> Mask:
        """Which of `rows` have no valid value of a feature: -1, or a value that was filled."""
        missing = rows < 0
        return self.columns[feature.name][1][np.where(missing, 0, rows)] | missing

    def column(self, feature: Feature, rows: npt.NDArray[np.int64]) -> pa.Array:
        """A feature's values at `rows`, filled where there is none."""
        stored, missing = self.columns[feature.name][0], rows < 0
        taken = stored.take(pa.array(np.where(missing, 0, rows)))
        if not missing.any():
            return taken
        filler = pa.array([feature.filler if feature.width == 1 else [feature.filler] * feature.width], stored.type)
        return pa.concat_arrays([taken, filler]).take(pa.array(np.where(missing, len(taken), np.arange(len(taken)))))


def load_tables(schema: Schema, sources: Mapping[str, Source]) -> Tables:
    """All feature tables; read once per process, whichever transform asks first."""
    return _load(json.dumps(schema.to_dict(), sort_keys=True), tuple(sorted(sources.items())))


@functools.lru_cache(maxsize=1)
def _load(schema: str, sources: tuple[tuple[str, Source], ...]) -> Tables:
    declared = Schema.from_dict(json.loads(schema))
    return {name: FeatureTable(declared, name, source) for name, source in sources}


def join(schema: Schema, tables: Tables, block: pa.Table) -> pa.Table:
    """A block with the columns of every feature table."""
    for name, table in tables.items():
        rows = table.find(values.plain(block[key_column(schema.tables[name])]))
        for feature in schema.features:
            if feature.table == name:
                block = block.append_column(feature.name, table.column(feature, rows))
    return block


class JoinTables(beam.DoFn):
    """Blocks -> blocks with the columns of every feature table."""

    def __init__(self, schema: Schema, sources: Mapping[str, Source]) -> None:
        self.schema, self.sources = schema, dict(sources)

    def setup(self) -> None:
        """Loads the tables."""
        self.tables = load_tables(self.schema, self.sources)

    def process(self, block: pa.Table) -> Iterator[pa.Table]:
        """Looks up."""
        yield join(self.schema, self.tables, block)
