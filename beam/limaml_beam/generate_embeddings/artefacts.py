"""Reads the adapter's manifest and the schema of the tasks, on any Beam filesystem."""

from __future__ import annotations

import os

from limaml_beam.io import files
from tfrec_limaml.errors import LimamlError, SchemaError, VersionMismatchError
from tfrec_limaml.manifest import EXTRA_DIRECTORY, MANIFEST_FILE, Manifest, digest_of
from tfrec_limaml.paths import path_text
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import RECENT, SCHEMA_FILE, shard_pattern
from tfrec_limaml.version_folders import version_number


def newest_adapter(export: str | os.PathLike[str]) -> str:
    """The folder ``adapter/<version>`` of the highest version in an export folder.

    Raises:
        VersionMismatchError: There is no version.
    """
    base = files.join(path_text(export, "export"), "adapter")
    manifests = files.matching(base, f"*/{EXTRA_DIRECTORY}/{MANIFEST_FILE}")
    names = [path.split("/")[-3] for path in manifests]
    versions = {name: number for name in names if (number := version_number(name)) is not None}
    if not versions:
        raise VersionMismatchError(f"no exported version below {base}; run `limaml export` first")
    return files.join(base, max(versions, key=versions.__getitem__))


def read_manifest(adapter: str | os.PathLike[str]) -> Manifest:
    """The manifest of an exported adapter, ``adapter/<version>``.

    Raises:
        VersionMismatchError: There is no manifest, or it cannot be read.
    """
    adapter = path_text(adapter, "adapter")
    return Manifest.from_json(_manifest_text(adapter), _manifest_path(adapter))


def manifest_digest(adapter: str) -> str:
    """Digest of the manifest of an exported adapter; see `tfrec_limaml.manifest.digest_of`."""
    return digest_of(_manifest_text(adapter))


def read_schema(tasks: str) -> Schema:
    """The schema of a folder of tasks; raises `SchemaError` if there is none."""
    path = files.join(tasks, SCHEMA_FILE)
    text = files.read_text(path)
    if text is None:
        raise SchemaError(f"no schema file at {path}: not the finished output of `limaml prepare`")
    return Schema.from_yaml(text, path)


def task_files(tasks: str, definition: str) -> list[str]:
    """Files of the recent records of a task definition, on which the embedding job adapts.

    Raises:
        LimamlError: There is no such file.
    """
    folder = files.join(tasks, definition)
    paths = files.matching(folder, shard_pattern(RECENT))
    if not paths:
        raise LimamlError(f"no {shard_pattern(RECENT)} below {folder}; run `limaml prepare` first")
    return paths


def _manifest_path(adapter: str) -> str:
    return files.join(adapter, EXTRA_DIRECTORY, MANIFEST_FILE)


def _manifest_text(adapter: str) -> str:
    path = _manifest_path(adapter)
    text = files.read_text(path)
    if text is None:
        raise VersionMismatchError(
            f"no manifest at {path}: was this model exported by `limaml export`?"
        )
    return text
