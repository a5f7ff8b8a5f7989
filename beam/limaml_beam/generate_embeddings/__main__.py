"""``python -m limaml_beam.generate_embeddings``: ``limaml embed`` with Beam's flags as they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from limaml_beam.commands.beam_flags import wrap_beam_flags
from limaml_beam.commands.embed_arguments import add_arguments
from tfrec_limaml.cli import main as limaml


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``limaml embed``; returns its exit code."""
    return limaml(
        ["embed", *wrap_beam_flags(add_arguments, sys.argv[1:] if argv is None else argv)]
    )


if __name__ == "__main__":
    sys.exit(main())
