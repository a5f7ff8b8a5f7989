"""All uses of private interfaces of Apache Beam in the jobs.

``tests/beam/io/test_beam_internals.py`` names the missing one if a new version lacks it.
"""

from __future__ import annotations

import os
from typing import Any

import apache_beam
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers

from limaml_beam.io import worker_process
from tfrec_limaml.internals import internal


def end_late_workers() -> None:
    """Makes Beam's local runner end worker processes that connect after their pipeline's end.

    Without it a job of several processes that fails early waits forever: the runner notifies the
    workers that have connected, then waits for all processes. A second call changes nothing.
    """
    connection = internal(apache_beam, worker_handlers, "ControlConnection")
    done = internal(
        apache_beam,
        internal(apache_beam, worker_handlers, "BeamFnControlServicer"),
        "_DONE_MARKER",
    )
    close = internal(apache_beam, connection, "close")
    if hasattr(close, "ends_late_workers"):
        return

    def close_for_all(self: worker_handlers.ControlConnection) -> None:
        # A worker's stream reads this marker whenever it opens, and stops; `close` may add another.
        self.push(done)
        close(self)

    close_for_all.ends_late_workers = True  # type: ignore[attr-defined]
    connection.close = close_for_all


def end_workers_with_this_process() -> None:
    """Makes Beam's local runner start worker processes that end with this process.

    They end however this process ends; see `worker_process`. A second call changes nothing.
    """
    worker = internal(apache_beam, local_job_service, "SubprocessSdkWorker")
    initialise = internal(apache_beam, worker, "__init__")
    if hasattr(initialise, "ends_workers"):
        return

    def initialise_ending(self: Any, worker_command_line: bytes, *args: Any, **kwargs: Any) -> None:
        command = worker_process.command_line(worker_command_line.decode(), os.getpid())
        initialise(self, command.encode(), *args, **kwargs)

    initialise_ending.ends_workers = True  # type: ignore[attr-defined]
    worker.__init__ = initialise_ending
