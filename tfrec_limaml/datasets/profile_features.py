"""Features of members that several data sets use."""

from __future__ import annotations

from tfrec_limaml.schema.schema import Feature


def profile_category(name: str, tokens: int, table: str) -> Feature:
    """A categorical meta feature in `table`, such as a country, with at most `tokens` values."""
    return Feature(
        name=name,
        role="meta",
        dtype="string",
        encoding="vocabulary",
        max_vocabulary=tokens,
        table=table,
    )
