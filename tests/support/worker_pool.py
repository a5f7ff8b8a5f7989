"""Beam's pool of Python workers, which starts the workers of another engine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class WorkerPool:
    """Beam's worker pool: starts one process for each SDK worker that an engine asks for."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"localhost:{probe.getsockname()[1]}"
        self._log = log
        command = [
            sys.executable,
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
            f"--service_port={self.address.split(':')[1]}",
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
        deadline = time.monotonic() + 300
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
        self._process.wait(60)
