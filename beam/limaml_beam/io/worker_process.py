"""A worker process of Beam's local runner that ends with the process that started it.

Run as ``python -m limaml_beam.io.worker_process PARENT``. Beam's own worker waits two minutes for a
runner that has ended, and prints a traceback at Ctrl-C.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import sys
import threading
import time
from typing import Any

BEAM_MODULE = "apache_beam.runners.worker.sdk_worker_main"
#: How worker processes of this process's jobs ended, if they did not end well.
failures: list[str] = []


def command_line(beam_command: str, parent: int) -> str:
    """The shell command that starts this program instead of Beam's; other commands as they are."""
    interpreter, found, rest = beam_command.partition(f" -m {BEAM_MODULE}")
    if not found or rest:
        return beam_command
    return f"exec {interpreter} -m {__name__} {parent}"  # exec: no shell in between


def note_failure(beam_error: str) -> str:
    """Adds the end of a worker process to `failures`, and returns it.

    Args:
        beam_error: The runner's error, which ends with the exit code; negative after a signal.
    """
    found = re.search(r"-?\d+$", beam_error)
    code = int(found[0]) if found else 1
    if code < 0:
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        failure = (
            f"a worker process was killed by signal {-code}{memory}; repeat the command, with "
            "fewer --workers if memory is short"
        )
    else:
        failure = (
            f"a worker process ended with exit code {code}: the lines above may name the cause; "
            "remove it, or leave out --workers"
        )
    failures.append(failure)
    return failure


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _end(*_: Any) -> None:
    os._exit(0)  # the runner's process got the same Ctrl-C and reports it


def main(argv: list[str]) -> None:
    """Runs Beam's worker until it ends, or the process `argv[1]` does."""
    signal.signal(signal.SIGINT, _end)
    threading.Thread(target=_end_with, args=(int(argv[1]),), daemon=True).start()
    runpy.run_module(BEAM_MODULE, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv)
