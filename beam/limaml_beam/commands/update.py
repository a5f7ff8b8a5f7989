"""``limaml update``: updates the embeddings of the members of new interactions."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limaml_beam.commands.beam_flags import add_beam_flag, add_report_flags, report_paths
from limaml_beam.commands.ignored_options import Rule, refuse_engine, refuse_ignored
from limaml_beam.update import defaults
from tfrec_limaml.cli import Command
from tfrec_limaml.wording import counted, duration

if TYPE_CHECKING:
    from limaml_beam.update.job import Update
    from tfrec_limaml.store import EmbeddingStore

DESCRIPTION = """\
Adds new interactions to the records of their members, adapts the model to these members alone, and
upserts their embeddings into the current generation: readers see them at once. Known rows are
recognised by content and dropped. It may run at any time between two nightly refreshes; the next
refresh takes over embeddings that are newer than its data, and reports the share of updated records
that equal its own.

The work folder is that of limaml refresh --keep-rows; feature tables, window and the values of
history features are those of the last refresh.

example:
  limaml update clicks-1205.parquet --work WORK --store lmdb:STORE

exit code 0: done, even if rows became dead letters (WORK/updates/dead_letter); 2: another update
is running, the store does not answer, or nothing can be read. Then repeat the command.
"""

#: A window that ends at a given time has no clock that could differ.
IGNORED = (Rule(("--clock-skew-seconds",), not_with=("--window-end",)),)

#: Kinds of counts in the report of a run, and their names in the result of an update.
_VALUES = {"filled": "filled", "unreadable": "unreadable", "unknown_key": "unknown_keys"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml update``."""
    parser.add_argument(
        "interactions", nargs="+", metavar="NEW_INTERACTIONS", help="files, folders or patterns"
    )
    add_shared_arguments(parser)
    add_report_flags(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that ``limaml update`` and ``limaml stream`` share."""
    parser.add_argument("--work", required=True, help="work folder of limaml refresh --keep-rows")
    parser.add_argument(
        "--store", required=True, metavar="ADDRESS", help="lmdb:FOLDER or redis://HOST:PORT/DB"
    )
    parser.add_argument(
        "--export",
        metavar="EXPORT",
        help="folder that `limaml export` wrote; its newest adapter is used (default: that of the "
        "last refresh)",
    )
    parser.add_argument(
        "--window-end", metavar="DATE", help="end of the window, ISO 8601 (default: now)"
    )
    parser.add_argument(
        "--clock-skew-seconds",
        type=float,
        default=defaults.CLOCK_SKEW_SECONDS,
        metavar="S",
        help="use rows up to this time in the future; later ones become dead letters (default: "
        "%(default)s)",
    )
    add_beam_flag(parser)


def settings_from(arguments: argparse.Namespace, store: EmbeddingStore) -> Update:
    """The updater's settings from the command line."""
    from limaml_beam.commands.beam_flags import quiet_beam
    from limaml_beam.generate_embeddings.artefacts import newest_adapter
    from limaml_beam.io.pipeline_options import use_options
    from limaml_beam.update.job import Update

    quiet_beam(use_options(arguments.beam))
    return Update(
        work=Path(arguments.work),
        store=store,
        adapter=None if arguments.export is None else newest_adapter(arguments.export),
        window_end=arguments.window_end,
        clock_skew_seconds=arguments.clock_skew_seconds,
    )


def refuse_runner(flags: Sequence[str], command: str, otherwise: str = "") -> None:
    """Refuses Beam's flag for an engine, for commands that run in this process."""
    refuse_engine(flags, command, f"it runs in this process; leave out --runner{otherwise}")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one update."""
    from limaml_beam.io import outcome
    from limaml_beam.update.job import Updater
    from tfrec_limaml.store import open_store

    refuse_ignored(arguments, add_arguments, IGNORED)
    refuse_runner(arguments.beam, "limaml update")
    reported = outcome.reported("update", report_paths(arguments), arguments.metrics_file)
    with reported as report, _update_lock(Path(arguments.work)):
        outcome.stage("update")
        with contextlib.closing(open_store(arguments.store)) as store:
            result = Updater(settings_from(arguments, store)).update(arguments.interactions)
        rows = result["rows"]
        counts = {f"rows_{state}": rows[state] for state in ("read", "used")}
        counts |= {f"skipped:{reason}": number for reason, number in rows["skipped"].items()}
        for kind, in_result in _VALUES.items():
            counts |= {f"{kind}:{name}": number for name, number in result[in_result].items()}
        report |= {**result, "counts": counts}
    return result


@contextlib.contextmanager
def _update_lock(work: Path) -> Iterator[None]:
    """Holds the lock of updates.

    The stage is `outcome.LOCK` only if another update holds it. A folder that cannot be used is a
    failure.
    """
    from limaml_beam.io import outcome
    from limaml_beam.io.folder_lock import UPDATE, BusyError, exclusive

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(work, UPDATE))
        except BusyError:
            outcome.stage(outcome.LOCK)
            raise
        yield


def render(report: dict[str, Any]) -> str:
    """The report as text."""
    rows, lag = report["rows"], report["lag_seconds"]
    lines = [
        f"{counted(rows['read'], 'row')} read, {rows['used']} used; "
        f"{counted(report['tasks'], 'task')} adapted, "
        f"{counted(report['upserted'], 'embedding')} upserted in {report['seconds']} s"
    ]
    lines += [f"  skipped {number}: {reason}" for reason, number in rows["skipped"].items()]
    if report["left_window"]:
        lines.append(f"  {counted(report['left_window'], 'task')} with rows that left the window")
    if report["ignored_as_older"]:
        lines.append(f"  {report['ignored_as_older']} ignored: the store has newer ones")
    if lag is not None:
        lines.append(
            f"from interaction to store: median {duration(lag['p50'])}, 99 % {duration(lag['p99'])}"
        )
    lines += [f"  check: {text}" for text in report["warnings"]]
    return "\n".join(lines)


COMMAND = Command(
    help="adapt the members of new interactions between two refreshes",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
