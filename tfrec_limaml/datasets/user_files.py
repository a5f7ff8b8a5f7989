"""The user's own files: CSV or Parquet, with a schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".parquet")


def load_own(
    schema: str | Path, interactions: str | Path, tables: Mapping[str, str | Path]
) -> RawData:
    """Reads a schema and the files that it describes.

    Raises:
        SchemaError: A file is missing, empty or unreadable, or a table is given that the schema
            does not join.
    """
    declared = Schema.load(schema)
    for name in tables:
        if name not in declared.tables:
            raise SchemaError(
                f"--table {name}: the schema {declared.name!r} joins "
                f"{sorted(declared.tables) or 'no table'}"
            )
    return RawData(
        schema=declared,
        interactions=read_table(interactions),
        tables={name: read_table(path) for name, path in tables.items()},
        source={"files": [Path(p).name for p in (interactions, *tables.values())]},
    )


def read_table(path: str | Path) -> pd.DataFrame:
    """Reads a CSV, TSV or Parquet file.

    Columns of a CSV file stay text: what they are is for the schema to say, and ``007`` must not
    become 7 on the way.

    Raises:
        SchemaError: Not there, empty, of another kind, or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise SchemaError(f"no file at {path}")
    if not path.name.lower().endswith(SUFFIXES):
        raise SchemaError(
            f"cannot tell the format of {path}; give a file that ends in one of {list(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise SchemaError(f"{path} is empty")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        pa.ArrowException,
        OSError,
    ) as error:
        raise SchemaError(f"cannot read {path}: {error}") from error
    if frame.empty:
        raise SchemaError(f"{path} has a header, but no rows")
    double = sorted({str(c) for c in frame.columns[frame.columns.duplicated()]})
    if double:
        raise SchemaError(f"{path} has columns of the same name: {double}")
    return frame


def _read_text(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, sep="\x00", nrows=0, encoding="utf-8-sig", engine="python").columns[
        0
    ]
    separator = max(("\t", ";", ","), key=str(header).count)
    return pd.read_csv(
        path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
    )
