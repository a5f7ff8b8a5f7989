"""Checks that a block is saved with all arguments of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from tfrec_limaml.errors import LimamlError


def check_arguments(
    block: keras.layers.Layer, base: type[keras.layers.Layer], config: Mapping[str, Any]
) -> None:
    """Raises `LimamlError` if a block would be saved without arguments of its constructor.

    A class with a `get_config` of its own adds them itself.
    """
    if type(block).get_config is not base.get_config:
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    arguments = inspect.signature(type(block).__init__).parameters.items()
    lost = [n for n, p in arguments if n not in ("self", *config) and p.kind not in variadic]
    if lost:
        kind = type(block).__name__
        items = ", ".join(f'"{name}": self.{name}' for name in lost)
        raise LimamlError(
            f"{kind} would be saved without its arguments {lost}; give {kind} a method get_config "
            f"that returns {{**super().get_config(), {items}}}"
        )
