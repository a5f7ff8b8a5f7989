"""The raw layout: the common form of all prepared data sets.

::

    RAW/schema.yaml            the declaration, `tfrec_limaml.schema.schema.Schema`
    RAW/interactions.parquet   one row per interaction, in time order; timestamps in milliseconds
    RAW/<table>.parquet        one file per entry of ``schema.tables``
    RAW/data_card.json         see `tfrec_limaml.datasets.card`

Text columns are strings, the others int64 or float32 (lists of float32 for fixed vectors). A
missing or unusable value is null; the schema's ``on_invalid`` is applied when task records are
built.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, SCHEMA_FILE

INTERACTIONS = "interactions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawData:
    """A data set in memory.

    Attributes:
        schema: Names and types of the columns.
        interactions: One row per interaction.
        tables: Feature tables by their names in ``schema.tables``.
        dropped: Number of dropped rows by reason.
        source: Facts for the data card: ``licence``, ``citation``, ``homepage``, files read and the
            like.
    """

    schema: Schema
    interactions: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)


#: Width of the embedding, and maximum number of IDs, of a key that is declared as a feature.
ID_WIDTH, MAX_IDS = 16, 1_000_000


def with_id_feature(data: RawData) -> RawData:
    """The data set with the key of its first task definition as an embedded meta feature.

    ID meta blocks need such a feature.

    It is a vocabulary, not hash buckets: no two IDs share an embedding, and IDs that did not occur
    in training start from the blocks' learned prior.

    Raises:
        LimamlError: The first task definition has several key columns.
    """
    schema = data.schema
    keys = schema.task_columns()
    if len(keys) != 1:
        raise LimamlError(
            "--id-feature needs a task definition with one key column, but "
            f"{schema.default_task!r} has {list(keys)}; "
            "put one with a single column first in --tasks"
        )
    if any(feature.name == keys[0] for feature in schema.features):
        return data
    feature = Feature(
        name=keys[0],
        role="meta",
        dtype="string",
        encoding="vocabulary",
        max_vocabulary=MAX_IDS,
        embedding_width=ID_WIDTH,
    )
    return dataclasses.replace(data, schema=schema.replace(features=(feature, *schema.features)))


def check_output(output: str | Path, overwrite: bool) -> Path:
    """The output folder as a path; raises `LimamlError` if it exists and may not be replaced."""
    path = Path(output)
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists() and not overwrite:
        raise LimamlError(
            f"{path} exists already; choose another --output or replace it with --overwrite (in "
            "Python overwrite=True)"
        )
    if path.exists() and not (path / SCHEMA_FILE).is_file():
        raise LimamlError(
            f"{path} is not a prepared data set (no {SCHEMA_FILE} in it), so --overwrite does not "
            f"replace it; remove it yourself"
        )
    return path


def write_raw(raw: RawData, card: Mapping[str, Any], output: Path) -> None:
    """Writes the raw layout to `output`, completely or not at all.

    Raises:
        LimamlError: The disk is full, or the folder may not be written.
    """
    try:
        with staging.folder(output) as folder:
            raw.schema.save(folder / SCHEMA_FILE)
            for name, frame in {INTERACTIONS: raw.interactions, **raw.tables}.items():
                pq.write_table(_table(frame), folder / f"{name}.parquet", compression="zstd")
            text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
            (folder / DATA_CARD_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LimamlError(f"cannot write {output}: {error}") from error


def read_raw(path: str | Path) -> RawData:
    """Reads a folder that `write_raw` wrote; raises `SchemaError` naming the missing file."""
    folder = Path(path)
    schema = Schema.load(folder / SCHEMA_FILE)
    frames = {}
    for name in (INTERACTIONS, *schema.tables):
        file = folder / f"{name}.parquet"
        if not file.is_file():
            raise SchemaError(f"{folder} lacks {file.name}; prepare the data set again")
        try:
            frames[name] = pd.read_parquet(file, dtype_backend="numpy_nullable")
        except (pa.ArrowException, OSError) as error:
            raise SchemaError(f"cannot read {file}: {error}") from error
    return RawData(schema=schema, interactions=frames.pop(INTERACTIONS), tables=frames)


def _table(frame: pd.DataFrame) -> pa.Table:
    """Arrow types from the columns' contents: string, int64, float32, list of float32."""
    types = {
        "string": pa.string(),
        "Int64": pa.int64(),
        "int64": pa.int64(),
        "Float32": pa.float32(),
        "object": pa.list_(pa.float32()),
    }
    schema = pa.schema([(str(name), types[str(dtype)]) for name, dtype in frame.dtypes.items()])
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
