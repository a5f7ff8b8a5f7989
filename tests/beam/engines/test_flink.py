"""The embedding job on Flink: a real job server, its embedded cluster, and two SDK worker processes."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml_beam import embedding_tables as tables
from limaml_beam.generate_embeddings import generate

pytestmark = [pytest.mark.flink, pytest.mark.slow]

WORKERS = 2


@pytest.fixture(scope="module")
def job_server(checkout: Path) -> Iterator[Path]:
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (apt-get install openjdk-17-jre-headless)")
    jar = Path(os.environ.get("LIMAML_FLINK_JOB_SERVER") or checkout / "build" / "flink" / "job-server.jar")
    if not jar.is_file():
        pytest.skip(f"no Flink job server at {jar}: python beam/flink/make_job_server.py build/flink, or set LIMAML_FLINK_JOB_SERVER")
    yield jar
    stop_own_children_that_run(jar)


def stop_own_children_that_run(jar: Path) -> None:
    """Beam stops its job server when Python exits, which a test worker never does in the ordinary way."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while we look
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and str(jar).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGTERM)


class WorkerPool:
    """Beam's worker pool: starts one process for each SDK worker that Flink asks for."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"localhost:{probe.getsockname()[1]}"
        self._log = log
        command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={self.address.split(':')[1]}"]
        # The pool starts its workers as plain `python`.
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stderr=file, env=environment, start_new_session=True)

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                host, port = self.address.split(":")
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the worker pool did not start: {self._log.read_text()}")

    def workers_started(self) -> int:
        return self._log.read_text(errors="replace").count("Starting worker with command")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def worker_pool(tmp_path: Path) -> Iterator[WorkerPool]:
    pool = WorkerPool(tmp_path / "worker_pool.log")
    try:
        pool.wait_until_it_listens()
        yield pool
    finally:
        pool.stop()


def read(folder: str) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, tables.embedding_files(folder))).sort_by("task_key")


def test_two_worker_processes_under_flink_make_the_embeddings_of_the_direct_runner(job, job_server, worker_pool):
    direct = generate(job)
    on_flink = dataclasses.replace(job, output=f"{job.output}-on-flink")
    flags = [
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={job_server}",
        f"--parallelism={WORKERS}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool.address}",
        f"--sdk_worker_parallelism={WORKERS}",
        "--environment_cache_millis=60000",  # else each stage starts its own
    ]
    report = generate(on_flink, flags)
    assert worker_pool.workers_started() == WORKERS
    counts = ("rows", "tasks_read", "embedded", "dead_letters")
    assert [report[name] for name in counts] == [direct[name] for name in counts]
    expected, found = read(job.output), read(on_flink.output)
    assert found.drop(["embedding", "loss_before", "loss_after"]).equals(expected.drop(["embedding", "loss_before", "loss_after"]))
    for name in ("embedding", "loss_before", "loss_after"):
        # Batches differ only where Flink's bundles do; padding may move the last bit.
        pairs = (np.array(table[name].to_pylist(), np.float32) for table in (found, expected))
        np.testing.assert_allclose(*pairs, rtol=1e-5, atol=1e-6)
