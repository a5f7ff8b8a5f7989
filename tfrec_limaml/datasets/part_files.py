"""One table from several files: those of a folder or a pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tfrec_limaml.datasets import partitions, table_files
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema import arrow_keys


def find(path: str | Path) -> tuple[list[str], dict[str, Any]]:
    """The data files of a path (a file, a folder or a pattern), sorted.

    Returns:
        The files; for a folder or a pattern also the counts for `Table.files`.

    Raises:
        SchemaError: There is no file with data, or one of unknown format.
    """
    path = str(path)
    if os.path.isfile(path):
        if os.path.getsize(path) == 0:
            raise SchemaError(f"{path} is empty")
        _check_format(path)
        return [path], {}
    roots = [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True))
    if not roots:
        raise SchemaError(f"no file at {path}; check the path")
    names = {name: root for root in roots for name in _files_below(root)}
    markers = {n for n, root in names.items() if partitions.is_marker(_relative(n, root))}
    empty = {name for name in names.keys() - markers if os.path.getsize(name) == 0}
    parts = sorted(names.keys() - markers - empty)
    if not parts:
        raise SchemaError(f"no file with data below {path} (empty: {sorted(empty)})")
    for name in parts:
        _check_format(name)
    return parts, {"read": len(parts), "empty": sorted(empty), "markers": len(markers)}


def _check_format(path: str) -> None:
    if table_files.kind_of(path) is None:
        raise SchemaError(
            f"cannot tell the format of {path}; give files that end in one of "
            f"{list(table_files.ENDINGS)}, or a folder with nothing else"
        )


def _files_below(root: str) -> list[str]:
    if os.path.isfile(root):
        return [root]
    return [str(path) for path in Path(root).rglob("*") if path.is_file()]


def _relative(name: str, root: str) -> str:
    return os.path.basename(name) if name == root else os.path.relpath(name, root)


def concatenate(tables: Mapping[str, pa.Table], required: Collection[str] | None) -> pa.Table:
    """The rows of all files, with the columns that all of them have.

    If a column has different types in the files (numbers, text, booleans), its values become text
    by the usual rules, so that no digit is lost.

    Args:
        tables: Tables by file.
        required: Columns that all files must have; all columns by default.

    Raises:
        SchemaError: A file lacks a column, or has one of another type than others.
    """
    all_names = dict.fromkeys(name for table in tables.values() for name in table.column_names)
    common = []
    for name in all_names:
        lacking = [path for path, table in tables.items() if name not in table.column_names]
        if not lacking:
            common.append(name)
        elif len(lacking) < len(tables) and (required is None or name in required):
            raise SchemaError(f"{lacking[0]} lacks the column {name!r}, which other files have")
    columns = {name: _column(name, tables) for name in common}
    return pa.table(columns)


def _column(name: str, tables: Mapping[str, pa.Table]) -> pa.ChunkedArray:
    parts = {path: table[name] for path, table in tables.items()}
    kinds = {part.type for part in parts.values() if not pa.types.is_null(part.type)}
    if len(kinds) > 1:
        simple_parts = {path: arrow_keys.simple_array(part) for path, part in parts.items()}
        if all(_is_single(part.type) for part in simple_parts.values()):
            return pa.chunked_array([arrow_keys.as_text(part) for part in simple_parts.values()])
    try:
        one_column = [pa.table({name: part}) for part in parts.values()]
        return pa.concat_tables(one_column, promote_options="permissive")[name]
    except pa.ArrowException as error:
        raise SchemaError(
            f"column {name!r} has the types {sorted(map(str, kinds))} in the files of "
            f"{os.path.commonpath(list(parts))}; use one type"
        ) from error


def _is_single(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_temporal(kind))
