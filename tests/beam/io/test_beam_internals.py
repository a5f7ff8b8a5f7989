"""What the jobs change in Apache Beam's local runner, and that a version without it is named."""

import os
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import worker_handlers

from limaml_beam.io import beam_internals as internals
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


def test_a_worker_that_connects_after_the_end_is_told_so():
    internals.end_late_workers()
    internals.end_late_workers()
    connection = worker_handlers.ControlConnection()
    connection.close()
    connection.set_input(iter([]))
    assert connection._push_queue.qsize() == 1
    assert connection.get_req() is worker_handlers.BeamFnControlServicer._DONE_MARKER


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (worker_handlers, "ControlConnection"),
        (worker_handlers.ControlConnection, "close"),
        (worker_handlers.BeamFnControlServicer, "_DONE_MARKER"),
    ],
)
def test_what_a_version_lacks_is_named_with_the_version(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)
    with pytest.raises(LimamlError, match=rf"apache_beam {beam.__version__} has no .*\.{name};"):
        internals.end_late_workers()
