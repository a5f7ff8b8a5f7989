"""Beam's flags on the command lines of the jobs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def add_beam_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the option that passes flags to Beam."""
    parser.add_argument(
        "--beam",
        action="append",
        default=[],
        metavar="FLAG",
        help="flag for Beam, e.g. --beam=--runner=FlinkRunner; may be repeated",
    )


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the options for reports, which failed runs write too."""
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="also write the result of the run as JSON, however it ends: outcome, stage, reason "
        "and counts",
    )
    parser.add_argument(
        "--metrics-file",
        metavar="FILE.prom",
        help="also write the report as metrics for the text-file collector of Prometheus' node "
        "exporter",
    )


def report_paths(arguments: argparse.Namespace) -> list[str]:
    """The paths that the report is written to."""
    return [arguments.report] if arguments.report else []


def quiet_local_runner(options: PipelineOptions) -> bool:
    """Hides Beam's logs of the in-process runner; those of other runners are shown.

    They hold the traceback of an error before it is raised, and remarks that help no user.

    Returns:
        Whether it is the in-process runner.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    from limaml_beam.io.pipeline_options import LOCAL_RUNNER

    local = bool(options.view_as(StandardOptions).runner == LOCAL_RUNNER)
    if local:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    return local


def quiet_beam(options: PipelineOptions) -> None:
    """Hides log lines below errors; Beam's are shown unless the runner is the in-process one."""
    logging.getLogger().setLevel(logging.ERROR)
    if not quiet_local_runner(options):
        logging.getLogger("apache_beam").setLevel(logging.INFO)


def wrap_beam_flags(
    add_arguments: Callable[[argparse.ArgumentParser], None], argv: Sequence[str]
) -> list[str]:
    """Converts arguments of ``python -m limaml_beam.JOB`` to those of its ``limaml`` command.

    Unknown flags are passed to Beam.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    parser.add_argument("--json", action="store_true")
    if {"-h", "--help"} & set(argv):
        return list(argv)
    # A value of a flag for Beam may have the same text as another argument.
    arguments = [_Argument(text) for text in argv]
    unknown = {id(argument) for argument in parser.parse_known_args(arguments)[1]}
    return [f"--beam={text}" if id(text) in unknown else str(text) for text in arguments]


class _Argument(str):
    """An argument that is not equal to another one of the same text."""
