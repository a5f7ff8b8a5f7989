"""Beam's pool of Python workers, which starts the workers of another engine."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ports import free_port, wait_for_server


class WorkerPool:
    """Beam's worker pool: starts one process for each SDK worker that an engine asks for."""

    def __init__(self, log: Path) -> None:
        self._port = free_port()
        self.address = f"localhost:{self._port}"
        self._log = log
        command = [
            sys.executable,
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
            f"--service_port={self._port}",
        ]
        # The pool starts its workers as plain `python`.
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        }
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stderr=file, env=environment, start_new_session=True
            )

    @property
    def process(self) -> int:
        """The process id of the pool."""
        return self._process.pid

    def wait_until_it_listens(self) -> None:
        wait_for_server(self._port, self._process, self._log)

    def workers_started(self) -> int:
        return self._log.read_text(errors="replace").count("Starting worker with command")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
