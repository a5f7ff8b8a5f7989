"""Beam's pipeline options for the jobs."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from limaml_beam.io.beam_internals import end_late_workers

#: The switching DirectRunner of recent Beam releases first looks for a Prism binary on the network;
#: a job on one machine must not.
LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def use_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options from flags; filesystems use them from here on, so before a file is matched."""
    options = local_by_default(list(flags))
    FileSystems.set_options(options)
    return options


def local_by_default(flags: list[str]) -> PipelineOptions:
    """Pipeline options in which no runner, or ``DirectRunner``, means Beam's in-process runner.

    The main session is not pickled unless asked for: the jobs do not need it, and Dataflow would
    pickle it by default.
    """
    options = PipelineOptions(flags)
    setup = options.view_as(SetupOptions)
    setup.save_main_session = bool(setup.save_main_session)
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner", "direct"):
        standard.runner = LOCAL_RUNNER
        end_late_workers()
    return options
