"""Attributes of a Keras model that Keras does not handle: traced settings and untracked state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import keras

Value = TypeVar("Value")


class TracedSetting(Generic[Value]):
    """An attribute of a Keras model that its compiled functions contain as a constant.

    When it is changed, these functions are replaced, so that they are traced with the new value.

    Args:
        convert: Checks and converts a value; its arguments are the attribute's name and the value.
    """

    def __init__(self, convert: Callable[[str, Any], Value]) -> None:
        self.convert = convert

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: keras.Model | None, owner: type | None = None) -> Value:
        if model is None:  # read from the class, as documentation tools do
            return self  # type: ignore[return-value]
        return getattr(model, f"_{self.name}")

    def __set__(self, model: keras.Model, value: Any) -> None:
        new = self.convert(self.name, value)
        attribute = f"_{self.name}"
        changed = hasattr(model, attribute) and getattr(model, attribute) != new
        setattr(model, attribute, new)
        if changed:
            replace_compiled_functions(model)


def replace_compiled_functions(model: keras.Model) -> None:
    """Replaces the functions that `fit`, `evaluate` and `predict` have made. They are not removed:
    a callback may change a setting in the middle of a loop.
    """
    for loop in ("train", "test", "predict"):
        if getattr(model, f"{loop}_function") is not None:
            getattr(model, f"make_{loop}_function")(force=True)


def number(minimum: float) -> Callable[[str, Any], float]:
    """A conversion to a number that is at least `minimum`."""

    def convert(name: str, value: Any) -> float:
        if not value >= minimum:
            raise ValueError(f"{name} must be at least {minimum}, received {value}")
        return float(value)

    return convert


def count(name: str, value: Any) -> int:
    """A conversion to a whole number that is at least 0."""
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, received {value}")
    if not math.isfinite(value) or int(value) != value:
        raise ValueError(f"{name} must be a whole number, received {value}")
    return int(value)


class Untracked(Generic[Value]):
    """Holds variables or metrics without Keras' tracking, which would save and count them."""

    def __init__(self, value: Value) -> None:
        self.value = value
