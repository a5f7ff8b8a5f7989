"""``limaml refresh``: the daily job in one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limaml_beam.commands import embed, prepare
from limaml_beam.commands.beam_flags import add_report_flag, report_paths
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError

if TYPE_CHECKING:
    from tfrec_limaml.manifest import Manifest

DESCRIPTION = """\
Builds task records from the last days, adapts the model to the members whose records changed,
checks the result against what is published, and publishes it as one generation; or refuses, with
the reason, and leaves the published one alone. Safe to run twice, beside itself and to kill at
any point: state lies in the work folder, and the store's pointer moves last. The work folder is
local (its lock is this machine's); where tasks and embeddings lie on gs:// or the like, schedule
`limaml prepare` and `limaml embed` instead.

example (from cron, every night):
  limaml refresh RAW --export EXPORT --store lmdb:STORE --work WORK --window-days 28

exit code 0: published; 2: refused or failed; the reason is on stderr, and with the stage, the
counts and the checks in WORK/refresh.json
"""

_LIMITS = {
    "min_count_ratio": "number of tasks relative to the published run, at least",
    "max_count_ratio": "number of tasks relative to the published run, at most",
    "min_finite": "share of finite embeddings, at least",
    "min_norm_ratio": "mean norm relative to the published run, at least",
    "max_norm_ratio": "mean norm relative to the published run, at most",
    "max_drift": "change of the vectors relative to their length, at most",
    "min_loss_improvement": "share by which adaptation lowers the mean loss, at least",
    "max_filled_increase": "share of filled values of a feature beyond the training data's, at "
    "most (default 0.2)",
    "max_unknown_increase": "share of unknown keys of a table beyond the training data's, at most "
    "(default 0.2)",
    "max_age_increase_days": "age of the newest row beyond the published run's, at most (default "
    "0.9)",
    "min_rows_per_day_ratio": "rows per day relative to the published run, at least (default 0.5)",
    "max_rows_per_day_ratio": "rows per day relative to the published run, at most (default 2)",
}
_PREPARE_OPTIONS = ("schema", "window_days", "window_end", "max_samples", "shards")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml refresh``."""
    parser.add_argument(
        "raw",
        nargs="?",
        metavar="RAW",
        help="folder with schema.yaml, interactions.parquet and the feature tables",
    )
    parser.add_argument(
        "--work",
        required=True,
        help="folder for the state, one per model and store; local, or mounted",
    )
    embed.add_job_arguments(parser, store_required=True)
    parser.add_argument(
        "--full", action="store_true", help="adapt every task again, changed or not"
    )
    source = parser.add_argument_group("task records (as in limaml prepare)")
    source.add_argument("--schema", metavar="FILE", help="schema file (default: RAW/schema.yaml)")
    source.add_argument(
        "--interactions",
        action="append",
        metavar="PATTERN",
        help="interaction files instead of RAW; may be repeated",
    )
    source.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="files of a feature table; may be repeated",
    )
    source.add_argument("--window-days", type=float, metavar="X", help="use the last X days")
    source.add_argument("--window-end", metavar="DATE", help="end of the window (default: now)")
    source.add_argument("--max-samples", type=int, metavar="N", help="most recent rows per task")
    source.add_argument("--shards", type=int, metavar="N", help="task-record files")
    add_report_flag(parser)
    limits = parser.add_argument_group("limits (a run outside them is refused)")
    for name, text in _LIMITS.items():
        limits.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="F", help=text)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one refresh."""
    from limaml_beam.io.files import is_local
    from limaml_beam.io.pipeline_options import use_options
    from limaml_beam.refresh.job import session

    if not is_local(str(arguments.work)):
        raise LimamlError(
            f"--work must be a folder of this machine or a mount, received {arguments.work}; where "
            "tasks and embeddings lie on gs://, s3:// or the like, schedule `limaml prepare` and "
            "`limaml embed`"
        )
    flags = embed.beam_flags(arguments)
    embed.quiet_beam(use_options(flags))
    work = Path(arguments.work)
    try:
        with session(work, report_paths(arguments)):
            return _run(arguments, flags)
    except OSError as error:
        raise LimamlError(f"cannot write below {work}: {error}") from error


def _run(arguments: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    from limaml_beam.generate_embeddings.artefacts import newest_adapter, read_manifest
    from limaml_beam.refresh.checks import Thresholds
    from limaml_beam.refresh.job import Refresh, refresh
    from tfrec_limaml.store import open_store

    adapter = newest_adapter(arguments.export)
    manifest = read_manifest(adapter)
    given = {
        name: getattr(arguments, name) for name in _LIMITS if getattr(arguments, name) is not None
    }
    store = open_store(arguments.store)
    try:
        return refresh(
            Refresh(
                work=Path(arguments.work),
                adapter=adapter,
                store=store,
                prepare=lambda output: prepare.run(
                    _prepare_arguments(arguments, output, manifest, flags)
                ),
                limits=Thresholds(**given),
                full=arguments.full,
                max_age_days=arguments.max_age_days,
                max_bad_fraction=arguments.max_bad_fraction,
                batch_size=arguments.batch_size,
                intra_op_threads=embed.intra_op_threads(arguments.workers),
                flags=flags,
            )
        )
    finally:
        store.close()


def _prepare_arguments(
    arguments: argparse.Namespace, output: Path, manifest: Manifest, flags: list[str]
) -> argparse.Namespace:
    """What ``limaml prepare`` would be given."""
    command = [] if arguments.raw is None else [arguments.raw]
    command += [
        "--output",
        str(output),
        "--overwrite",
        "--recent-only",
        "--task",
        manifest.task_definition,
    ]
    if manifest.training_label_mean is not None:
        command.append(f"--history-prior={manifest.training_label_mean!r}")
    for name in _PREPARE_OPTIONS:
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += [f"--interactions={pattern}" for pattern in arguments.interactions or ()]
    command += [f"--table={table}" for table in arguments.table] + [
        f"--beam={flag}" for flag in flags
    ]
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    return parser.parse_args(command)


COMMAND = Command(
    help="the daily job: prepare, embed, check, publish or refuse",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=embed.render,
)
