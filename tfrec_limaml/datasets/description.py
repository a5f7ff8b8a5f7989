"""Describes a folder, a file or a built-in data set, for ``limaml datasets describe``."""

from __future__ import annotations

import dataclasses
import glob
import shlex
from pathlib import Path
from typing import Any

import yaml

from tfrec_limaml.datasets import card, conform, guess, raw, registry, text_remarks, user_files
from tfrec_limaml.datasets.text_format import NULL_WORDS, TextFormat
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import SCHEMA_FILE
from tfrec_limaml.wording import closest


def describe(
    target: str,
    schema: str | Path | None,
    write_schema: str | Path | None,
    text: TextFormat | None = None,
    known: guess.Known | None = None,
) -> dict[str, Any]:
    """See `tfrec_limaml.datasets.describe`."""
    path = Path(target)
    prepared = (path / SCHEMA_FILE).exists()
    if path.is_file() or (path.is_dir() and not prepared) or glob.has_magic(target):
        return _files(path, schema, write_schema, text, known)
    if schema is not None or write_schema is not None:
        raise LimamlError(
            f"--schema and --write-schema need a CSV or Parquet file; there is none at {target}"
        )
    if path.is_dir():
        stored_card = card.stored(path)
        data = dataclasses.replace(
            raw.read_raw(path),
            dropped=stored_card.get("dropped", {}),
            source=stored_card.get("source", {}),
        )
        return card.data_card(data, stored_card.get("invalid"))
    datasets = registry.all_datasets()
    if target in datasets:
        return {"name": target, **datasets[target].facts()}
    raise LimamlError(
        f"{target!r} is neither a file, nor a prepared folder, nor a built-in data "
        f"set{closest(target, datasets)}"
    )


def _files(
    path: Path,
    schema: str | Path | None,
    write_schema: str | Path | None,
    text: TextFormat | None,
    known: guess.Known | None,
) -> dict[str, Any]:
    _check_options(schema, write_schema, known)
    required_columns = (
        None if schema is None else conform.interaction_columns(Schema.load(str(schema)))
    )
    table = user_files.read_table(path, text, needed=required_columns)
    frame = table.frame
    guessed = guess.guess_schema(frame, path.stem, known) if schema is None else None
    declared = Schema.load(str(schema)) if guessed is None else guessed.schema
    data, invalid = conform.conform(
        raw.RawData(
            schema=_without_tables(declared),
            interactions=frame,
            dropped=table.malformed,
            source={"files": [path.name], **table.files},
        )
    )
    result = card.data_card(data, invalid)
    if guessed is not None:
        result["warnings"] += [*guessed.checks, *_remarks(table, text or TextFormat())]
        result["schema_yaml"] = yaml.safe_dump(
            guessed.schema.to_dict(), sort_keys=False, allow_unicode=True
        )
        if write_schema is not None:
            _save(guessed.schema, write_schema)
            result["schema_written"] = str(write_schema)
            result["next"] = _prepare_command(path, write_schema, text or TextFormat())
    return result


def _check_options(
    schema: str | Path | None, write_schema: str | Path | None, known: guess.Known | None
) -> None:
    """Refuses options of the guess beside a schema, and a file of that name that exists."""
    given = known is not None and known != guess.Known()
    if schema is not None and (given or write_schema is not None):
        raise LimamlError(
            "with --schema nothing is guessed: leave out --label, --timestamp, --task and "
            "--write-schema, or leave out --schema"
        )
    if write_schema is not None and Path(write_schema).exists():
        raise LimamlError(
            f"{write_schema} exists already; choose another name for the guessed schema"
        )


def _remarks(table: user_files.Table, text: TextFormat) -> list[str]:
    """What to know of the file as it was read."""
    words = text_remarks.missing_words(table.frame, text.null_words)
    unnamed = f"left out: columns without a name in line 1: {table.unnamed}"
    return [
        *([words] if words else []),
        *text_remarks.separated_thousands(table.frame),
        *([unnamed] if table.unnamed else []),
    ]


def _save(schema: Schema, path: str | Path) -> None:
    try:
        schema.save(path)
    except OSError as error:
        raise LimamlError(f"cannot write {path}: {error}") from error


def _prepare_command(path: Path, schema: str | Path, text: TextFormat) -> str:
    """The command that prepares a file with the schema that was written for it."""
    words = ["limaml", "datasets", "prepare", "--schema", str(schema), "--interactions", str(path)]
    if text.delimiter is not None:
        delimiter = (
            text.delimiter if text.delimiter.isprintable() else f"\\x{ord(text.delimiter):02x}"
        )
        words += ["--delimiter", delimiter]
    if text.null_words != NULL_WORDS:
        words += [f"--null-word={word}" for word in text.null_words]
    if not text.quotes:
        words.append("--no-quotes")
    return f"{shlex.join(words)} --output RAW"


def _without_tables(schema: Schema) -> Schema:
    """The schema of the interactions alone.

    There are no tables to join, and the card leaves out their features. The card does not depend
    on roles, but a schema needs a meta feature.
    """
    features = [
        dataclasses.replace(f, role="meta") for f in schema.features if f.table is None
    ] or [guess.identity(schema.task_columns()[0])]
    return schema.replace(features=tuple(features), tables={}, history=())
