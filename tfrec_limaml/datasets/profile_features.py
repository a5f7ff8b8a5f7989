"""Features of members that the data sets share."""

from __future__ import annotations

from tfrec_limaml.schema.schema import Feature


def profile_category(name: str, tokens: int, table: str) -> Feature:
    """A category of the member's, such as a country, of at most `tokens` values, in `table`."""
    return Feature(
        name=name,
        role="meta",
        dtype="string",
        encoding="vocabulary",
        max_vocabulary=tokens,
        table=table,
    )
