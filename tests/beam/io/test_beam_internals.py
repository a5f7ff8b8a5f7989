"""What the jobs change in Apache Beam's local runner, and that a version without it is named."""

import contextlib
import os
import signal
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers

from limaml_beam.io import beam_internals as internals
from limaml_beam.io import runner_errors, worker_process
from tfrec_limaml.errors import LimamlError

SLOW_WORKER = """
import os, time
worker = os.environ.get("WORKER_ID", "")
if worker and int(worker.rpartition("_")[2]) % 2 == 0:
    time.sleep(5)
"""
FAILING_JOB = """
import sys
import apache_beam as beam
from limaml_beam.io.pipeline_options import local_by_default

def refuse(number):
    raise ValueError(f"received {number}")

flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
pipeline = beam.Pipeline(options=local_by_default(flags))
pipeline | beam.Create([3]) | beam.Map(refuse)
pipeline.run().wait_until_finish()
"""
KILLED_JOB = """
import os, signal, sys
import apache_beam as beam
from limaml_beam.io import runner_errors
from limaml_beam.io.pipeline_options import local_by_default
from tfrec_limaml.errors import LimamlError

def die(number):
    os.kill(os.getpid(), signal.SIGKILL)

flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
pipeline = beam.Pipeline(options=local_by_default(flags))
pipeline | beam.Create([3]) | beam.Map(die) | beam.GroupBy() | beam.Map(print)
try:
    with runner_errors.readable("out"):
        pipeline.run().wait_until_finish()
except LimamlError as error:
    sys.exit(str(error))
"""
KILLED_AT_ITS_START = """
import os, signal
if os.environ.get("WORKER_ID"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITING_JOB = """
import time
import apache_beam as beam
from limaml_beam.io.pipeline_options import local_by_default

def wait(number):
    print("waiting", flush=True)
    time.sleep(600)

flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
pipeline = beam.Pipeline(options=local_by_default(flags))
pipeline | beam.Create([3]) | beam.Map(wait)
pipeline.run().wait_until_finish()
"""


@pytest.mark.slow
def test_a_failing_job_ends_although_a_worker_starts_late(tmp_path):
    """The first bundle goes to the second worker, and has failed before the first one connects."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_WORKER)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FAILING_JOB],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "ValueError: received 3" in done.stderr
    assert done.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("start", ["", KILLED_AT_ITS_START], ids=["while it runs", "at its start"])
def test_a_job_whose_worker_is_killed_ends_with_one_line_that_says_so(tmp_path, start):
    (tmp_path / "sitecustomize.py").write_text(start)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED_JOB],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("a worker process was killed by signal 9 (out")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them_however_it_ends(end):
    """They hold its standard output open as long as they live."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING_JOB],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            # A terminal sends Ctrl-C to all processes of the job.
            os.killpg(process.pid, end) if end == signal.SIGINT else process.kill()
            errors = process.communicate(timeout=60)[1]
            assert process.returncode == -end
            assert "Worker subprocess exited" not in errors
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_only_the_command_of_beams_own_worker_is_changed():
    beam_command = f"python -m {worker_process.BEAM_MODULE}"
    ours = worker_process.command_line(beam_command, 7)
    assert ours == "exec python -m limaml_beam.io.worker_process 7"
    for other in (ours, f"{beam_command} --flag", "bash worker.sh"):
        assert worker_process.command_line(other, 7) == other


def test_workers_are_started_by_the_changed_command_once():
    internals.end_workers_with_this_process()
    internals.end_workers_with_this_process()
    command = f"python -m {worker_process.BEAM_MODULE}".encode()
    worker = local_job_service.SubprocessSdkWorker(command, "localhost:1", None)
    assert worker._worker_command_line == worker_process.command_line(command.decode(), os.getpid())


@pytest.mark.parametrize(
    ("code", "said"),
    [(-9, r"signal 9 \(out of memory\?\); "), (-15, "signal 15; "), (1, "code 1: ")],
)
def test_the_end_of_a_worker_process_is_named(code, said):
    def end():
        worker_process.note_failure(f"Worker subprocess exited with return code {code}")
        raise RuntimeError("Channel closed prematurely.")

    with pytest.raises(LimamlError, match=said), runner_errors.readable("out"):
        end()


def test_a_worker_that_connects_after_the_end_is_told_so():
    internals.end_late_workers()
    internals.end_late_workers()
    connection = worker_handlers.ControlConnection()
    connection.close()
    connection.set_input(iter([]))
    assert connection._push_queue.qsize() == 1
    assert connection.get_req() is worker_handlers.BeamFnControlServicer._DONE_MARKER


@pytest.mark.parametrize(
    ("change", "owner", "name"),
    [
        (internals.end_late_workers, worker_handlers, "ControlConnection"),
        (internals.end_late_workers, worker_handlers.ControlConnection, "close"),
        (internals.end_late_workers, worker_handlers.BeamFnControlServicer, "_DONE_MARKER"),
        (internals.end_workers_with_this_process, local_job_service, "SubprocessSdkWorker"),
        (internals.fail_with_dead_workers, worker_handlers, "SubprocessSdkWorkerHandler"),
        (internals.fail_with_dead_workers, worker_handlers.ControlConnection, "push"),
    ],
)
def test_what_a_version_lacks_is_named_with_the_version(monkeypatch, change, owner, name):
    monkeypatch.delattr(owner, name)
    with pytest.raises(LimamlError, match=rf"apache_beam {beam.__version__} has no .*\.{name};"):
        change()
