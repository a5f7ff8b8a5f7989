"""All uses of private interfaces of Apache Beam in the jobs.

``tests/beam/io/test_beam_internals.py`` names the missing one if a new version lacks it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import data_plane

from limaml_beam.io import worker_process
from tfrec_limaml.internals import internal

#: How the names of the options begin that Beam's filesystems use.
_OF_FILESYSTEMS = ("s3_", "hdfs_", "azure_")


def filesystem_options() -> PipelineOptions:
    """The options that Beam's filesystems use."""
    return internal(apache_beam, FileSystems, "_pipeline_options") or PipelineOptions([])


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

    They end however this process ends; see `worker_process`. Their filesystems have the options of
    this process. A second call changes nothing.
    """
    worker = internal(apache_beam, local_job_service, "SubprocessSdkWorker")
    initialise = internal(apache_beam, worker, "__init__")
    if hasattr(initialise, "ends_workers"):
        return

    def initialise_ending(
        self: Any, command_line: bytes, address: str, provision_info: Any, *args: Any, **kwargs: Any
    ) -> None:
        command = worker_process.command_line(command_line.decode(), os.getpid()).encode()
        initialise(self, command, address, provision_info, *args, **kwargs)
        if provision_info is not None:  # Beam itself gives the processes no options
            provision_info.provision_info.pipeline_options.update(
                {
                    f"beam:option:{name}:v1": value
                    for name, value in filesystem_options().get_all_options(True).items()
                    if name.startswith(_OF_FILESYSTEMS)
                }
            )

    initialise_ending.ends_workers = True  # type: ignore[attr-defined]
    worker.__init__ = initialise_ending


def fail_with_dead_workers() -> None:
    """Makes Beam's local runner fail the work of worker processes that end with an error.

    Without it a job of several processes may wait forever for a process that was killed. The errors
    are in `worker_process.failures`. A second call changes nothing.
    """
    worker = internal(apache_beam, local_job_service, "SubprocessSdkWorker")
    handler = internal(apache_beam, worker_handlers, "SubprocessSdkWorkerHandler")
    connection = internal(apache_beam, worker_handlers, "ControlConnection")
    channel = internal(apache_beam, data_plane, "_GrpcDataChannel")
    run = internal(apache_beam, worker, "run")
    start = internal(apache_beam, handler, "start_worker")
    push = internal(apache_beam, connection, "push")
    read = internal(apache_beam, connection, "_read")
    read_inputs = internal(apache_beam, channel, "_read_inputs")
    if hasattr(run, "notes_failures"):
        return

    def run_noting(self: Any) -> None:
        try:
            run(self)
        except RuntimeError as error:
            self.failure = worker_process.note_failure(str(error))

    def start_watched(self: Any) -> None:
        start(self)
        threading.Thread(target=_watch, args=(self,), daemon=True).start()

    def push_unless_dead(self: Any, request: Any) -> Any:
        future = push(self, request)
        if future is not None and hasattr(self, "failure"):
            _fail(future, self.failure)
        return future

    def read_until_killed(self: Any) -> None:
        with contextlib.suppress(_rpc_error()):
            read(self)

    def read_inputs_until_killed(self: Any, elements: Iterable[Any]) -> None:
        read_inputs(self, _until_killed(elements))

    run_noting.notes_failures = True  # type: ignore[attr-defined]
    worker.run, handler.start_worker = run_noting, start_watched
    connection.push, connection._read = push_unless_dead, read_until_killed
    channel._read_inputs = read_inputs_until_killed


def _until_killed(elements: Iterable[Any]) -> Iterator[Any]:
    """What a worker sends, until its process is killed."""
    with contextlib.suppress(_rpc_error()):
        yield from elements


def _rpc_error() -> type[Exception]:
    """gRPC's error, for a connection that breaks."""
    error: type[Exception] = internal(apache_beam, worker_handlers, "grpc").RpcError
    return error


def _watch(handler: Any) -> None:
    """Waits for a worker process; if it fails, fails all that the runner asked and will ask it."""
    handler.worker_thread.join()
    if hasattr(handler.worker, "failure"):
        handler.control_conn.failure = handler.worker.failure
        for future in list(handler.control_conn._futures_by_id.values()):
            _fail(future, handler.worker.failure)


def _fail(future: Any, failure: str) -> None:
    future.set(
        beam_fn_api_pb2.InstructionResponse(instruction_id=future.instruction_id, error=failure)
    )
