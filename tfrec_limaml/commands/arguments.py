"""Types of arguments: bad values are refused before anything runs, with the name of the option."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def output_folder(text: str) -> Path:
    """A local folder to write; refuses a file there or on the way to it."""
    path = Path(text)
    for part in (path, *path.parents):
        if part.is_dir():
            break
        if os.path.lexists(part):
            raise argparse.ArgumentTypeError(f"{part} is a file; name a folder")
    return path


def output_location(text: str) -> str:
    """A folder to write, local or of a file system of Beam such as ``gs://bucket/folder``."""
    if "://" not in text:
        output_folder(text)
    return text


def at_least(minimum: int) -> Callable[[str], int]:
    """Whole numbers from `minimum` on."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {minimum}, received {text}"
            )
        return value

    return number
