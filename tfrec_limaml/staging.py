"""Writes local files and folders completely or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8; readers see the old or the new content."""
    with file(Path(path)) as staging:
        staging.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def file(output: Path) -> Iterator[Path]:
    """Yields a path to write to, which becomes `output` when the block ends without an error.

    The path has the suffix of `output`.

    Raises:
        OSError: The disk is full, or the file may not be written.
    """
    staging = _temporary_path(output, "partial")
    try:
        yield staging
        staging.replace(output)
    finally:
        staging.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(output: Path, *, replace: bool = True) -> Iterator[Path]:
    """An empty folder to write to, which becomes `output` when the block ends without an error.

    Args:
        output: The folder to make.
        replace: Whether an existing `output` may be replaced. It is moved away first and removed
            last, and restored after an error.

    Raises:
        OSError: The disk is full, the folder may not be written, or `output` is a folder with files
            that may not be replaced.
    """
    staging, former = _temporary_path(output, "partial"), _temporary_path(output, "replaced")
    try:
        staging.mkdir(parents=True)
        yield staging
        if replace and output.exists():
            output.rename(former)
        try:
            staging.rename(output)
        except OSError:
            if former.exists():
                former.rename(output)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _temporary_path(path: Path, kind: str) -> Path:
    return path.with_name(f".{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
