"""``python -m limaml_beam.build_tasks``: ``limaml prepare`` with Beam's flags given directly."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from limaml_beam.commands.beam_flags import wrap_beam_flags
from limaml_beam.commands.prepare_arguments import add_arguments
from tfrec_limaml.cli import main as limaml


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``limaml prepare``; returns its exit code."""
    logging.basicConfig(level=logging.WARNING)
    return limaml(
        ["prepare", *wrap_beam_flags(add_arguments, sys.argv[1:] if argv is None else argv)]
    )


if __name__ == "__main__":
    sys.exit(main())
