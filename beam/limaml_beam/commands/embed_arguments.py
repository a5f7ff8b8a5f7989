"""The options of ``limaml embed``, some of which ``limaml refresh`` has too."""

from __future__ import annotations

import argparse
import dataclasses

from limaml_beam.commands.beam_flags import add_beam_flag, add_report_flags
from limaml_beam.generate_embeddings.options import EmbedOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml embed``."""
    parser.add_argument(
        "tasks",
        metavar="TASKS",
        help="folder that `limaml prepare` wrote, local or on any Beam filesystem",
    )
    parser.add_argument("--output", required=True, help="folder to write; refused if it exists")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--previous", help="output of the last run: adapt only tasks whose record has changed"
    )
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument(
        "--launch-only",
        action="store_true",
        help="submit the job and return; --finish completes it",
    )
    steps.add_argument(
        "--finish", action="store_true", help="check and publish what a launched job has written"
    )
    steps.add_argument(
        "--publish-only",
        action="store_true",
        help="publish a finished OUTPUT whose publication failed",
    )
    parser.add_argument(
        "--with-variance",
        action="store_true",
        help="also write the posterior variance of each stored number (models adapted in closed "
        "form)",
    )
    parser.add_argument(
        "--variance-store",
        metavar="ADDRESS",
        help="publish the variances in this separate store; implies --with-variance",
    )
    add_report_flags(parser)
    add_job_arguments(parser)


def add_job_arguments(parser: argparse.ArgumentParser, store_required: bool = False) -> None:
    """Options that ``limaml embed`` and ``limaml refresh`` share."""
    parser.add_argument(
        "--export",
        required=True,
        help="folder that `limaml export` wrote; its newest adapter is used",
    )
    _add_store_arguments(parser, store_required)
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        metavar="X",
        default=EmbedOptions.max_bad_fraction,
        help="fail above this share of tasks that are dead letters (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=EmbedOptions.batch_size,
        help="maximum number of tasks per call of the adapter (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=EmbedOptions.workers,
        help="worker processes on this machine (default: %(default)s)",
    )
    add_beam_flag(parser)


def _add_store_arguments(parser: argparse.ArgumentParser, store_required: bool) -> None:
    parser.add_argument(
        "--store",
        metavar="ADDRESS",
        required=store_required,
        help="publish here: lmdb:FOLDER or redis://HOST:PORT/DB",
    )
    parser.add_argument(
        "--max-age-days",
        type=float,
        metavar="X",
        default=EmbedOptions.max_age_days,
        help="keep the embeddings of tasks that have left the window for X days after their last "
        "interaction (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-generations",
        type=int,
        default=EmbedOptions.keep_generations,
        metavar="N",
        help="good generations to keep in the store, besides those of the last hour (default: "
        "%(default)s)",
    )


def options_from(arguments: argparse.Namespace) -> EmbedOptions:
    """The options that are given on the command line."""
    names = {field.name for field in dataclasses.fields(EmbedOptions)}
    return EmbedOptions(**{name: v for name, v in vars(arguments).items() if name in names})
