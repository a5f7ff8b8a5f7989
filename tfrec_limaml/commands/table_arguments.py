"""The value of the option ``--table``, which commands that read a user's tables have."""

from __future__ import annotations

from collections.abc import Sequence

from tfrec_limaml.errors import LimamlError


def tables_from(items: Sequence[str], rule: str) -> dict[str, list[str]]:
    """The files of each table.

    Args:
        items: The values that were given, each a name, an equals sign and a file.
        rule: What the message says about the values: ``needs NAME=FILE``.

    Raises:
        LimamlError: One has no name, or no file.
    """
    tables: dict[str, list[str]] = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise LimamlError(f"--table {rule}, received {item!r}")
        tables.setdefault(name, []).append(file)
    return tables
