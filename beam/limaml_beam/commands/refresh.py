"""``limaml refresh``: the daily job in one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.commands import embed, embed_arguments, prepare_arguments
from limaml_beam.commands.beam_flags import add_report_flags, quiet_beam, report_paths
from limaml_beam.commands.ignored_options import refuse_workers
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.refresh.options import Thresholds
from limaml_beam.update.dead_letters import DEAD_LETTER_DAYS
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError

DESCRIPTION = """\
Builds task records of the newest interactions, adapts the model to the members whose records
changed, and compares the result with the published generation. Then it publishes the result as a
new generation, or refuses it, with the reason, and keeps the published one. It is safe to start a
second refresh at the same time, and to kill a refresh at any point: the state is in the work
folder, and the store's pointer moves last. The work folder must be local (it has a local file
lock); if tasks and embeddings are on gs:// or the like, schedule `limaml prepare` and `limaml
embed` instead.

example (from cron, every night):
  limaml refresh RAW --export EXPORT --store lmdb:STORE --work WORK --window-days 28

exit code 0: published; 2: refused or failed. The reason is on stderr, and in WORK/refresh.json with
the stage, the counts and the checks. A message that begins with "published GENERATION, but" also
has exit code 2: the generation is published, but a file about the run could not be written
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
    "most",
    "max_unknown_increase": "share of unknown keys of a table beyond the training data's, at most",
    "max_age_increase_days": "age of the newest row beyond the least age in the published runs so "
    "far, at most",
    "max_days_back": "days by which the window ends before that of the published run, at most",
    "min_rows_per_day_ratio": "rows per day relative to the published run, at least",
    "max_rows_per_day_ratio": "rows per day relative to the published run, at most",
    "max_lost_days": "days (UTC) that lost at least half of the published run's rows, at most",
}


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
    embed_arguments.add_job_arguments(parser, store_required=True)
    parser.add_argument("--full", action="store_true", help="adapt all tasks, also unchanged ones")
    parser.add_argument(
        "--keep-rows",
        action="store_true",
        help="keep each task's rows beside its record, uncompressed, for `limaml update`",
    )
    parser.add_argument(
        "--dead-letter-days",
        type=float,
        default=DEAD_LETTER_DAYS,
        metavar="D",
        help="remove dead letters of updates after this time (default: %(default)s)",
    )
    source = parser.add_argument_group("task records (as in limaml prepare)")
    prepare_arguments.add_source_arguments(source)
    prepare_arguments.add_window_arguments(source)
    prepare_arguments.add_samples_argument(source)
    prepare_arguments.add_shards_argument(source)
    add_report_flags(parser)
    _add_limits(parser.add_argument_group("limits (runs outside are refused)"))


def _add_limits(limits: argparse._ArgumentGroup) -> None:
    limits.add_argument(
        "--max-bad-rows",
        type=float,
        default=PrepareOptions.max_bad_fraction,
        metavar="F",
        help="share of invalid rows, at most; --max-bad-fraction is for tasks (default: "
        "%(default)s)",
    )
    for name, text in _LIMITS.items():
        limits.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=getattr(Thresholds, name),
            metavar="F",
            help=f"{text} (default: %(default)s)",
        )


def options_from(arguments: argparse.Namespace) -> tuple[PrepareOptions, EmbedOptions]:
    """The options of both jobs.

    ``--max-bad-fraction`` applies to the embedding job, ``--max-bad-rows`` to the task records.
    """
    made = prepare_arguments.options_from(arguments, without=("max_bad_fraction", "keep_rows"))
    return (
        made.replace(max_bad_fraction=arguments.max_bad_rows),
        embed_arguments.options_from(arguments),
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs one refresh."""
    from limaml_beam.io.files import is_local
    from limaml_beam.io.pipeline_options import use_options
    from limaml_beam.refresh.session import session

    if not is_local(str(arguments.work)):
        raise LimamlError(
            f"--work must be a folder of this machine or a mount, received {arguments.work}; if "
            f"tasks and embeddings are on gs://, s3:// or the like, schedule `limaml prepare` and "
            "`limaml embed`"
        )
    refuse_workers(arguments)
    quiet_beam(use_options(arguments.beam))
    with session(Path(arguments.work), report_paths(arguments), arguments.metrics_file):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from limaml_beam.generate_embeddings.artefacts import newest_adapter
    from limaml_beam.refresh.job import refresh
    from limaml_beam.refresh.options import Refresh
    from tfrec_limaml.store import open_store

    prepare_options, embed_options = options_from(arguments)
    adapter = newest_adapter(arguments.export)
    store = open_store(arguments.store)
    try:
        return refresh(
            Refresh(
                work=Path(arguments.work),
                adapter=adapter,
                store=store,
                prepare=prepare_options,
                embed=embed_options,
                limits=Thresholds(**{name: getattr(arguments, name) for name in _LIMITS}),
                full=arguments.full,
                keep_rows=arguments.keep_rows,
                dead_letter_days=arguments.dead_letter_days,
                flags=arguments.beam,
            )
        )
    finally:
        store.close()


def render(report: dict[str, Any]) -> str:
    """The report as text."""
    return "\n".join([embed.render(report), *(f"  check: {text}" for text in report["warnings"])])


COMMAND = Command(
    help="the daily job: prepare, embed, check, publish or refuse",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
