"""The schema that a file belongs to."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

from limaml_beam.io import files
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import DATA_CARD_FILE, SCHEMA_FILE


def schema_above(path: str, root: str) -> tuple[Schema, tuple[str, ...]] | None:
    """The schema in the folder of a file or in a parent folder up to `root`; None without one.

    With it, the task definitions of the folder's records, according to its data card if it has one.
    """
    folder = path.rsplit("/", 1)[0]
    for candidate in _upwards(folder, root):
        schema_and_definitions = _schema_in(candidate)
        if schema_and_definitions is not None:
            return schema_and_definitions
    return None


@functools.lru_cache(maxsize=1024)
def _schema_in(folder: str) -> tuple[Schema, tuple[str, ...]] | None:
    path = files.join(folder, SCHEMA_FILE)
    text = files.read_text(path)
    if text is None:
        return None
    card = json.loads(files.read_text(files.join(folder, DATA_CARD_FILE)) or "{}")
    definitions = tuple(card.get("settings", {}).get("definitions", ()))
    return Schema.from_yaml(text, path), definitions


def _upwards(folder: str, root: str) -> Iterator[str]:
    root = root.rstrip("/")
    while True:
        yield folder
        if folder == root or "/" not in folder or not folder.startswith(root):
            return
        folder = folder.rsplit("/", 1)[0]
