"""Beam's pipeline options for the jobs."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from limaml_beam.io.beam_internals import (
    end_late_workers,
    end_workers_with_this_process,
    fail_with_dead_workers,
)
from tfrec_limaml.errors import LimamlError

#: The switching DirectRunner of recent Beam releases first looks for a Prism binary on the network;
#: a job on one machine must not.
LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def use_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options from flags, also for its filesystems: call this before matching files."""
    options = local_by_default(list(flags))
    FileSystems.set_options(options)
    return options


def local_by_default(flags: list[str]) -> PipelineOptions:
    """Pipeline options in which no runner, or ``DirectRunner``, means Beam's in-process runner.

    The main session is not pickled unless asked for: the jobs do not need it, and Dataflow would
    pickle it by default.

    Raises:
        LimamlError: Beam would ignore one of the flags.
    """
    _refuse_stray_words(flags)
    options = PipelineOptions(flags)
    setup = options.view_as(SetupOptions)
    setup.save_main_session = bool(setup.save_main_session)
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner", "direct"):
        standard.runner = LOCAL_RUNNER
        _refuse_unknown_flags(flags)
        end_late_workers()
        end_workers_with_this_process()
        fail_with_dead_workers()
    return options


def new_pipeline(options: PipelineOptions | None) -> beam.Pipeline:
    """An empty pipeline; raises `LimamlError` if Beam or its runner refuses the options."""
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        raise LimamlError(f"Beam refuses its flags: {error}") from error


def _refuse_stray_words(flags: Sequence[str]) -> None:
    for before, flag in zip(["", *flags], flags, strict=False):
        takes_value = before.startswith("-") and "=" not in before
        if not flag.startswith("-") and not takes_value:
            raise LimamlError(f"Beam's flags begin with --, received {flag!r}")


def _refuse_unknown_flags(flags: Sequence[str]) -> None:
    """Refuses flags that Beam's SDK does not know; only job servers of other runners have such."""
    known = PipelineOptions([]).get_all_options()
    options = PipelineOptions(flags).get_all_options(retain_unknown_options=True)
    for flag in flags:
        name = flag.partition("=")[0].lstrip("-").replace("-", "_")
        if flag.startswith("-") and name in options and name not in known:
            raise LimamlError(
                f"neither this command nor Beam has the flag {flag!r}, which would be ignored: "
                "correct it, or leave it out"
            )
