"""The benchmarks' arguments, and how they print their results."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, received {text!r}")
    return int(text)


def up_to_half(text: str) -> float:
    """A number from 0 to 0.5."""
    value = float(text)
    if not 0.0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 0.5, received {text}")
    return value


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with the module's text."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_measured(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, Path], Mapping[str, Any]],
) -> None:
    """Prints what `measure` returns for the command's arguments and a temporary folder.

    One of the arguments is ``--json``.
    """
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    print_result(result, arguments.json)


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """Prints one JSON object, or a line for each key."""
    lines = (f"{key}: {value}" for key, value in result.items())
    print(json.dumps(result, indent=2) if as_json else "\n".join(lines))
