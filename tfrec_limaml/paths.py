"""Paths that Python callers give: as text, which filesystems that are not local need."""

from __future__ import annotations

import os
from typing import Any

from tfrec_limaml.errors import LimamlError


def path_text(value: Any, name: str) -> str:
    """A path as text; raises `LimamlError` for anything else.

    Args:
        value: A text or a `pathlib.Path`.
        name: The argument, for the message.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    remedy = ""
    if hasattr(value, "to_parquet"):
        remedy = "; write it to a file first, for example with to_parquet('rows.parquet')"
    elif hasattr(value, "save"):
        remedy = "; write it to a file first, with save('schema.yaml')"
    raise LimamlError(
        f"{name} must be the path of a file or a folder, received a {type(value).__name__}{remedy}"
    )


def path_texts(value: Any, name: str) -> tuple[str, ...]:
    """One path, or a list of them, as texts; see `path_text`."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(path_text(path, name) for path in several)
