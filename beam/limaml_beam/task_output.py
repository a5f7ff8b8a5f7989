"""Outputs become visible whole or not at all: written aside, checked, then renamed."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from tfrec_limaml.errors import LimamlError

DEAD_LETTERS = "dead_letter"


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's filesystem."""
    return "://" not in path


def check_free(output: str, overwrite: bool) -> None:
    """Raises `LimamlError` where the output exists and may not be replaced."""
    if not overwrite and (Path(output).exists() if is_local(output) else bool(_files(output))):
        raise LimamlError(f"{output} exists; give --overwrite to replace it, or another --output")


def aside_of(output: str) -> str:
    """A fresh name beside the output."""
    return f"{output.rstrip('/')}.partial-{uuid.uuid4().hex[:8]}"


def publish(aside: str, output: str) -> None:
    """Renames; a former output is moved away first and removed last. On object stores, where nothing renames whole folders,
    files are renamed one by one and the schema, which every reader opens first, comes last."""
    if not is_local(output):
        discard(output)
        pairs = [(path, FileSystems.join(output, path[len(aside) :].lstrip("/"))) for path in _files(aside)]
        pairs.sort(key=lambda pair: pair[0].endswith("schema.yaml"))
        FileSystems.rename([a for a, _ in pairs], [b for _, b in pairs])
        return
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f"{target.name}.old-{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    Path(aside).rename(target)
    shutil.rmtree(old, ignore_errors=True)


def keep_dead_letters(aside: str, output: str) -> str | None:
    """Moves the dead letters of a failed local run to ``<output>.rejected``; returns that folder, or None without any."""
    letters = Path(aside) / DEAD_LETTERS
    if not is_local(output) or not letters.is_dir() or not any(letters.glob("*.jsonl")):
        return None
    kept = Path(f"{output.rstrip('/')}.rejected")
    shutil.rmtree(kept, ignore_errors=True)
    letters.rename(kept)
    return str(kept)


def discard(directory: str) -> None:
    """Removes a directory and everything below it, where it exists."""
    if is_local(directory):
        shutil.rmtree(directory, ignore_errors=True)
    elif found := _files(directory):
        FileSystems.delete(found)


def _files(directory: str) -> list[str]:
    result = FileSystems.match([FileSystems.join(directory, "**")])[0]
    return [found.path for found in result.metadata_list]
