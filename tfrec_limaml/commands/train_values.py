"""Values of the options of ``limaml train``: reading them, and the recipes' values in the help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tfrec_limaml.training.options import recipe


def widths(text: str) -> tuple[int, ...]:
    """Reads widths of layers, such as ``128,64``."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers such as 128,64, received {text!r}"
        ) from error


def fraction(text: str) -> float | tuple[float, float]:
    """Reads a share, such as ``0.75``, or a range, such as ``0.2-0.9``."""
    try:
        low, _, high = text.partition("-")
        return (float(low), float(high)) if high else float(low)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be a number such as 0.75 or a range such as 0.2-0.9, received {text!r}"
        ) from error


def adder(group: Any) -> Callable[..., Any]:
    """``group.add_argument``, with the recipes' values of an option at the end of its help.

    Flags and options whose help names a default stay as they are.
    """

    def add(flag: str, **kwargs: Any) -> Any:
        name = kwargs.get("dest", flag.removeprefix("--").replace("-", "_"))
        if "action" not in kwargs and "(default" not in kwargs["help"]:
            kwargs["help"] += recipe_values(name)
        return group.add_argument(flag, **kwargs)

    return add


def recipe_values(name: str) -> str:
    """Text for the values that the recipes give to an option; empty if they leave it open."""
    default, paper = (_value(recipe(each), name) for each in ("default", "paper"))
    if default == paper:
        return "" if default is None else f" (default: {default})"
    return f" (default: {default or 'none'}; paper: {paper or 'none'})"


def _value(options: Any, name: str) -> str | None:
    """An option's value as it is written on the command line."""
    owner = options if hasattr(options, name) else options.model
    value = getattr(owner, f"chosen_{name}", getattr(owner, name))
    if isinstance(value, tuple):  # a range, or widths of layers
        return ("-" if isinstance(value[0], float) else ",").join(f"{each:g}" for each in value)
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
