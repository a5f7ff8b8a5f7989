"""Ports of this machine, for servers that tests start."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

import pytest
from waiting import wait_for


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def listens(port: int) -> bool:
    """Whether a process listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_server(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once `process` listens; fails the test with the end of its log if it does not."""

    def why() -> str:
        return log.read_text(errors="replace")[-3000:]

    wait_for(lambda: listens(port) or process.poll() is not None, why=why)
    if process.poll() is not None:
        pytest.fail(f"{process.args!r} ended: {why()}")
