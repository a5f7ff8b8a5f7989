"""Local files and folders that appear whole or not at all: written under a name beside the final
one, then renamed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8; a reader sees the former content or the new one."""
    path = Path(path)
    staging = _beside(path, "partial")
    try:
        staging.write_text(text, encoding="utf-8")
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(output: Path) -> Iterator[Path]:
    """An empty folder to write to, which becomes `output` when the block ends without an error.

    A former `output` is moved away first and removed last; after an error it stands as it was.

    Raises:
        OSError: The disk is full, or the folder may not be written.
    """
    staging, former = _beside(output, "partial"), _beside(output, "replaced")
    try:
        staging.mkdir(parents=True)
        yield staging
        if output.exists():
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


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
