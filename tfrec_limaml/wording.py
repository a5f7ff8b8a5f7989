"""Counts with their noun, for texts that people read."""

from __future__ import annotations


def counted(number: float, one: str, many: str | None = None, spec: str = "") -> str:
    """``1 row``, ``2 rows``, ``0 rows``.

    Args:
        number: The count.
        one: The words after 1.
        many: The words after other numbers; `one` with an s by default.
        spec: Format specification of the number, such as ``,`` for separated thousands.
    """
    words = one if number == 1 else f"{one}s" if many is None else many
    return f"{number:{spec}} {words}"
