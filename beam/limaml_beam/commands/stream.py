"""``limaml stream``: a process that updates with the files that arrive in a folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from limaml_beam.commands import update
from tfrec_limaml.cli import Command

DESCRIPTION = """\
Waits for files of interactions in a folder, and does with each what limaml update does; the model
stays loaded. Write files under a name that begins with . or _ and rename them. Bad rows and files
become dead letters (WORK/updates/dead_letter) and hold nothing up. While the store is away, or
another update runs, it waits and tries again; no row is lost. Kill it at any time: what was not
done is done after the next start, and nothing is applied twice.

example:
  limaml stream --from-folder ARRIVING --work WORK --store redis://127.0.0.1:6379/0

A line of JSON for each update goes to stderr, the totals to stdout at the end (--stop-when-idle).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml stream``."""
    parser.add_argument(
        "--from-folder", required=True, metavar="DIR", help="local folder where files arrive"
    )
    update.add_shared_arguments(parser)
    parser.add_argument(
        "--poll-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="between two looks at the folder (default: %(default)s)",
    )
    parser.add_argument(
        "--stop-when-idle",
        type=float,
        metavar="S",
        help="end after so many seconds without a new file (default: go on for good)",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the stream."""
    from limaml_beam.update.stream import Stream, stream
    from tfrec_limaml.store import open_store

    store = open_store(arguments.store)
    try:
        settings = Stream(
            folder=Path(arguments.from_folder),
            update=update.settings_from(arguments, store),
            poll_seconds=arguments.poll_seconds,
            idle_seconds=arguments.stop_when_idle,
        )
        return stream(settings, _tell)
    finally:
        store.close()


def _tell(report: dict[str, Any]) -> None:
    sys.stderr.write(f"{json.dumps(report)}\n")


COMMAND = Command(
    help="limaml update with every file that arrives in a folder",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
