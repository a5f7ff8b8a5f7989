"""State of a model that is not part of its weights."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")


class Untracked(Generic[Value]):
    """Holds variables or metrics without Keras' tracking, which would save and count them."""

    def __init__(self, value: Value) -> None:
        self.value = value
