"""The serving half of the demo: ``limaml serve`` and ``limaml rank`` as separate processes."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tfrec_limaml.errors import LimamlError

#: How this interpreter runs `limaml`.
LIMAML = (sys.executable, "-m", "tfrec_limaml")
_START_SECONDS, _STOP_SECONDS = 120, 30


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """Runs ``limaml serve`` on a free loopback port; yields ``host:port`` and stops it at the end.

    Raises:
        LimamlError: The server did not start; the message has its last output.
    """
    command = [*LIMAML, "serve", str(model), "--name", "ranker", "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    lines: collections.deque[str] = collections.deque(maxlen=20)
    target: list[str] = []
    ready = threading.Event()
    # Reads until the end: a full pipe would block the server.
    reader = threading.Thread(
        target=_listen, args=(process.stderr, lines, target, ready), daemon=True
    )
    reader.start()
    try:
        if not ready.wait(_START_SECONDS) or not target:
            raise LimamlError(
                f"`limaml serve {model}` did not start: {' | '.join(lines) or 'it printed nothing'}"
            )
        yield target[0]
    finally:
        stop_process(process)
        reader.join()
        process.stderr.close()


def stop_process(process: subprocess.Popen[Any]) -> None:
    """Ends a process: by SIGTERM, or after half a minute by SIGKILL."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listen(
    stream: IO[str], lines: collections.deque[str], target: list[str], ready: threading.Event
) -> None:
    for line in stream:
        lines.append(line.strip())
        match = re.search(r"serving .* at (\S+:\d+)\s*$", line)
        if match and not target:
            target.append(match.group(1))
            ready.set()
    ready.set()  # it ended


def rank(
    target: str, export: Path, store: str, request: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float64], bool]:
    """Ranks one request with ``limaml rank``.

    Returns:
        The probability of each candidate, in the request's order, and whether the member's
        embedding was used.
    """
    # The first requests after a start may be slow on a busy machine.
    command = [
        *LIMAML,
        "rank",
        "--target",
        target,
        "--export",
        str(export),
        "--store",
        store,
        "--timeout",
        "30",
    ]
    done = subprocess.run(
        command, input=json.dumps(request) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LimamlError(f"`limaml rank` failed: {done.stderr.strip().splitlines()[-1]}")
    ranked = sorted(json.loads(done.stdout)["ranked"], key=lambda row: row["candidate"])
    return np.array([row["probability"] for row in ranked]), bool(ranked[0]["used_embedding"])
