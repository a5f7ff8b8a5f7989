"""The files that task records are built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from limaml_beam.build_tasks.row_checks import interaction_columns
from limaml_beam.io.sources import Source, column_types
from limaml_beam.rows.feature_tables import table_columns
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.column_values import can_hold
from tfrec_limaml.schema.schema import Schema


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The input files: interactions and feature tables."""

    interactions: Source
    tables: Mapping[str, Source]

    @classmethod
    def find(
        cls,
        schema: Schema,
        interactions: str | Sequence[str],
        tables: Mapping[str, str | Sequence[str]],
        text: TextFormat | None = None,
        dates: tuple[int, int] | None = None,
    ) -> Inputs:
        """The files that match the patterns.

        `text` and `dates` (of the interactions) are those of `Source.match`.

        Raises:
            LimamlError: A table is missing or unknown, or a pattern matches nothing.
        """
        table_sources = cls.tables_of(schema, tables, text)
        return cls(Source.match("interactions", interactions, text, dates), table_sources)

    @staticmethod
    def tables_of(
        schema: Schema, tables: Mapping[str, str | Sequence[str]], text: TextFormat | None = None
    ) -> dict[str, Source]:
        """The files of each feature table; raises as `find`."""
        missing, unknown = (
            sorted(set(schema.tables) - set(tables)),
            sorted(set(tables) - set(schema.tables)),
        )
        if missing or unknown:
            raise LimamlError(
                f"the schema {schema.name!r} joins the tables {sorted(schema.tables)}; missing: "
                f"{missing}, unknown: {unknown}"
            )
        return {n: Source.match(f"table {n!r}", p, text) for n, p in tables.items()}

    def describe(self) -> dict[str, Any]:
        """Files read and left out, by table, for the data card."""
        sources = {"interactions": self.interactions, **self.tables}
        return {
            name: {
                "read": len(source.files),
                "empty": list(source.empty),
                "markers": len(source.markers),
                "outside_dates": len(source.outside),
            }
            for name, source in sources.items()
        }

    def files(self) -> list[str]:
        """Paths of all files that are read."""
        return [path for s in (self.interactions, *self.tables.values()) for path in s.files]

    def check(self, schema: Schema, definitions: tuple[str, ...]) -> None:
        """Checks the columns of each source's first file, before any worker starts.

        Raises:
            LimamlError: A column is missing, or its type cannot hold the feature.
        """
        sources: dict[str | None, tuple[Source, tuple[str, ...]]] = {
            None: (self.interactions, interaction_columns(schema, definitions))
        }
        for name, source in self.tables.items():
            sources[name] = source, table_columns(schema, name)
        for table, (source, columns) in sources.items():
            types = column_types(source, columns, () if table else schema.carry)
            for feature in schema.features:
                kind = types.get(feature.name)
                if feature.table == table and kind is not None and not can_hold(kind, feature):
                    raise LimamlError(
                        f"{source.files[0]}: column {feature.name!r} is of type {kind}, which "
                        f"cannot hold the feature (dtype {feature.dtype}, width {feature.width}); "
                        "correct the column, or its declaration"
                    )
