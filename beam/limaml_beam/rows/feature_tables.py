"""Feature tables: held in the memory of every worker, joined by look-up as late as possible.

Shuffles carry interactions without their joined columns; validation, statistics and the writer look
them up again. That keeps rows narrow where bytes cost most. A table must fit into a worker's
memory.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import Source, read_tables
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import key_column
from tfrec_limaml.arrays import Mask
from tfrec_limaml.schema import arrow_keys, column_values
from tfrec_limaml.schema.schema import Feature, Schema

_BATCH_ROWS = 65_536

Tables = Mapping[str, "FeatureTable"]


def owner(schema: Schema, column: str) -> str | None:
    """The feature table that holds a column; None for the interactions."""
    return next((f.table for f in schema.features if f.name == column), None)


def table_columns(schema: Schema, table: str) -> tuple[str, ...]:
    """Columns that the files of a feature table must have."""
    return tuple(
        dict.fromkeys(
            [schema.tables[table], *(f.name for f in schema.features if f.table == table)]
        )
    )


class FeatureTable:
    """One feature table in memory, validated, found by its key as text.

    A row takes 12 bytes of index, its key, four bytes per number, and one to four per text: columns
    of text hold codes.
    """

    def __init__(self, schema: Schema, name: str, source: Source) -> None:
        key = schema.tables[name]
        features = [feature for feature in schema.features if feature.table == name]
        keys: list[pa.Array] = []
        parts: dict[str, list[tuple[pa.Array, Mask]]] = {f.name: [] for f in features}
        # Each part is converted by itself: a column may have different types in different files.
        for path in source.files:
            columns = table_columns(schema, name)
            for part in read_tables((path, None), columns, _BATCH_ROWS, source.text):
                texts = arrow_keys.as_keys(part[key])
                part = part.filter(pc.is_valid(texts))  # a row without a key joins nothing
                keys.append(texts.drop_null())
                for feature in features:
                    array, invalid = column_values.as_feature(part[feature.name], feature)
                    parts[feature.name].append((_encoded(array), invalid))
        if not sum(map(len, keys)):
            raise SourceError(f"table {name!r} ({', '.join(source.files)}) has no rows")
        self._keys = pa.concat_arrays(keys)
        hashes = columnar.stable_hash(pc.fill_null(self._keys, ""))
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], order.astype(np.int32)
        run_lengths = np.diff(
            np.flatnonzero(np.append(np.diff(self._hashes, prepend=~self._hashes[:1]) != 0, True))
        )
        self._longest_run = int(run_lengths.max(initial=1))
        self._columns: dict[str, tuple[pa.Array, Mask | None]] = {}
        for feature in features:
            self._columns[feature.name] = _stored(parts.pop(feature.name), feature)
        if self._longest_run > 1:
            self._check_unique(name, key)

    def _check_unique(self, name: str, key: str) -> None:
        """Raises `SourceError` if two rows of one key differ; equal rows count as one."""
        value_counts = pc.value_counts(self._keys)
        repeated_keys = value_counts.filter(pc.greater(value_counts.field("counts"), 1)).field(
            "values"
        )
        rows = np.flatnonzero(np.asarray(pc.is_in(self._keys, value_set=repeated_keys)))
        keys = self._keys.take(pa.array(rows)).to_pylist()
        row_of_key: dict[str, Any] = {}
        cells = [column.take(pa.array(rows)).to_pylist() for column, _ in self._columns.values()]
        for index, text in enumerate(keys):
            row = [column[index] for column in cells]
            if row_of_key.setdefault(text, row) != row:
                raise SourceError(
                    f"table {name!r} holds the key {key} = {text!r} more than once, with different "
                    "values; one row per key is needed"
                )

    def find(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """Row of each key, -1 if the table does not have it."""
        codes, distinct = columnar.codes_of(pc.fill_null(keys, ""))
        hashes = columnar.stable_hash(distinct)
        positions = np.full(len(distinct), -1, np.int64)
        slots = np.searchsorted(self._hashes, hashes)
        for _ in range(self._longest_run):
            rows = self._rows[np.minimum(slots, len(self._rows) - 1)]
            equal = pc.fill_null(
                pc.equal(self._keys.take(pa.array(rows)), distinct), False
            ).to_numpy(zero_copy_only=False)
            positions[equal] = rows[equal]
            slots += 1
        return np.where(pc.is_null(keys).to_numpy(zero_copy_only=False), -1, positions[codes])

    def invalid(self, feature: Feature, rows: npt.NDArray[np.int64]) -> Mask:
        """Which of `rows` have no valid value of a feature: -1, or a value that was filled."""
        mask = self._columns[feature.name][1]
        return rows < 0 if mask is None else mask[rows]

    def column(self, feature: Feature, rows: npt.NDArray[np.int64]) -> pa.Array:
        """A feature's values at `rows`, filled if there is none."""
        stored = self._columns[feature.name][0]
        return stored.take(pa.array(np.where(rows < 0, len(stored) - 1, rows)))


def _stored(parts: list[tuple[pa.Array, Mask]], feature: Feature) -> tuple[pa.Array, Mask | None]:
    """A column followed by its default value (row -1), and the mask of its invalid values.

    Text is stored as the narrowest codes. The mask is None if all values are valid.
    """
    arrays, masks = map(list, zip(*parts, strict=True))
    value = feature.default_value if feature.width == 1 else [feature.default_value] * feature.width
    kind = arrays[0].type
    if pa.types.is_dictionary(kind):
        last = _encoded(pa.array([value], pa.string()))
        encoded = pa.chunked_array([*arrays, last]).unify_dictionaries().combine_chunks()
        array = _narrow(encoded)
    else:
        array = pa.concat_arrays([*arrays, pa.array([value], kind)])
    invalid = np.concatenate([*masks, [True]])
    return array, invalid if invalid[:-1].any() else None


def _encoded(array: pa.Array) -> pa.Array:
    """Text as codes; other arrays unchanged."""
    return array.dictionary_encode() if pa.types.is_string(array.type) else array


def _narrow(encoded: pa.DictionaryArray) -> pa.DictionaryArray:
    narrow = next(
        t
        for t in (pa.int8(), pa.int16(), pa.int32())
        if len(encoded.dictionary) <= 2 ** (t.bit_width - 1)
    )
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(narrow), encoded.dictionary)


def load_tables(schema: Schema, sources: Mapping[str, Source]) -> Tables:
    """All feature tables; read once per process, by the first transform that needs them."""
    return _load(json.dumps(schema.to_dict(), sort_keys=True), tuple(sorted(sources.items())))


@functools.lru_cache(maxsize=1)
def _load(schema: str, sources: tuple[tuple[str, Source], ...]) -> Tables:
    declared = Schema.from_dict(json.loads(schema))
    return {name: FeatureTable(declared, name, source) for name, source in sources}


def join(schema: Schema, tables: Tables, block: pa.Table) -> pa.Table:
    """A block with the columns of every feature table."""
    for name, table in tables.items():
        rows = table.find(arrow_keys.simple_array(block[key_column(schema.tables[name])]))
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
