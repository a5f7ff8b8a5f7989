"""Entry point of the Dataflow flex template.

A template has named parameters only, but TASKS is a positional argument of the command. The
launcher of a template cannot wait for the job, because it writes the job to a file
(``--template_location``) instead of submitting it: `limaml embed --finish` checks and publishes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def arguments_of(argv: Sequence[str]) -> list[str]:
    """Arguments of ``python -m limaml_beam.generate_embeddings`` from a template's parameters."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--tasks", required=True)
    known, rest = parser.parse_known_args(argv)
    return [known.tasks, "--launch-only", "--no_save_main_session", *rest]


if __name__ == "__main__":
    from limaml_beam.generate_embeddings.__main__ import main

    sys.exit(main(arguments_of(sys.argv[1:])))
