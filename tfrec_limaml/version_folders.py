"""Names of folders of model versions, in exports and stores."""

from __future__ import annotations


def version_number(name: str) -> int | None:
    """The version that a folder is named after; None for other names.

    Only the digits 0 to 9 count: `str.isdigit` is also true of texts such as "²".
    """
    return int(name) if name.isascii() and name.isdigit() else None
