"""Arguments that several commands share: types, which refuse bad values, and options."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tfrec_limaml.errors import LimamlError


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


def add_metrics_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--metrics-port`` and ``--metrics-host``."""
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="serve Prometheus metrics at http://127.0.0.1:N/metrics",
    )
    parser.add_argument(
        "--metrics-host", default="127.0.0.1", help="address for the metrics (default: %(default)s)"
    )


def tables_from(items: Sequence[str], rule: str) -> dict[str, list[str]]:
    """The files of each table of the option ``--table``.

    Args:
        items: The values that were given, each a name, an equals sign and a file.
        rule: What the message says about the values: ``needs NAME=FILE``.

    Raises:
        LimamlError: A value has no name, or no file.
    """
    tables: dict[str, list[str]] = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise LimamlError(f"--table {rule}, received {item!r}")
        tables.setdefault(name, []).append(file)
    return tables
