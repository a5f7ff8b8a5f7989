"""The cluster that ``TF_CONFIG`` describes, and the start of its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from tfrec_limaml.errors import LimamlError

#: Seconds to wait for the start of all workers, or for a batch, before others count as lost.
WORKER_TIMEOUT = 600.0
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
#: Arguments: seconds, process to end, message. Standard input ends with the process or the wait.
_WATCH = """
import os, select, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, sys.argv[3].encode())
    os.kill(int(sys.argv[2]), 9)
"""


def check_cluster(text: str | None) -> None:
    """Checks the value of ``TF_CONFIG``; TensorFlow checks little of it, without a clear message.

    Raises:
        LimamlError: The value does not describe a cluster of workers with this process among them.
    """
    try:
        config = json.loads(text or "")
        jobs, kind, index = config["cluster"], config["task"]["type"], config["task"]["index"]
    except (ValueError, KeyError, TypeError) as error:
        raise _error(f"received {text!r}") from error
    if not isinstance(jobs, dict):
        raise _error(f"cluster must be addresses by kind of task, received {jobs!r}")
    if set(jobs) - {"chief", "worker"}:
        raise LimamlError(f"TF_CONFIG may name chief and worker, received {sorted(jobs)}")
    _check_addresses(jobs)
    if not isinstance(kind, str) or not jobs.get(kind):
        raise _error(f"task type {kind!r} is none of {sorted(jobs)}")
    last = len(jobs[kind]) - 1
    # TensorFlow reads an index that is text, as some launchers write it.
    if isinstance(index, bool | float) or str(index) not in map(str, range(last + 1)):
        raise _error(f"the index of a {kind} is 0 to {last}, received {index!r}")


def _check_addresses(jobs: Mapping[str, Any]) -> None:
    for kind, addresses in jobs.items():
        if not isinstance(addresses, list):
            raise _error(f"{kind} must be a list of addresses, received {addresses!r}")
    everyone = [address for addresses in jobs.values() for address in addresses]
    for address in everyone:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise _error(f"an address must be HOST:PORT, received {address!r}")
        if everyone.count(address) > 1:
            raise _error(f"the address {address!r} is there twice")


def _error(reason: str) -> LimamlError:
    return LimamlError(
        f"multi-worker training needs TF_CONFIG in the environment, such as {_EXAMPLE}: {reason}"
    )


@contextlib.contextmanager
def limited_start(seconds: float) -> Iterator[None]:
    """A context in which the process ends with a message if it takes longer than `seconds`.

    TensorFlow waits for the other workers without releasing Python's global lock: no other thread
    and no signal handler of this process can run. So another process watches the time and kills
    this one, and SIGTERM has its default effect. TensorFlow replaces the handler of SIGTERM by one
    without effect; at the end, the handler is as before.
    """
    message = (
        f"limaml: error: not all workers have started within {seconds:g} s (--worker-timeout): "
        "start all of them, and check the addresses in TF_CONFIG\n"
    )
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH, str(seconds), str(os.getpid()), message],
        stdin=subprocess.PIPE,
    )
    try:
        with _default_sigterm():
            yield
    finally:
        watch.communicate()


@contextlib.contextmanager
def _default_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
