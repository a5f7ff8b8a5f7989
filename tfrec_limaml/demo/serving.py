"""The serving half of the demo: ``limaml serve`` and ``limaml rank`` as separate processes."""

from __future__ import annotations

import collections
import contextlib
import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfrec_limaml.arrays import Floats
from tfrec_limaml.errors import LimamlError

#: How this interpreter runs `limaml`.
LIMAML = (sys.executable, "-m", "tfrec_limaml")
_START_SECONDS, _STOP_SECONDS, _ANSWER_SECONDS = 120, 30, 120

#: Ranks a request; see `ranking`.
Rank = Callable[[Mapping[str, Any]], tuple[Floats, bool]]


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


@contextlib.contextmanager
def ranking(target: str, export: Path, store: str, log: Path) -> Iterator[Rank]:
    """Runs ``limaml rank``; yields a function that ranks a request, and ends it at the end.

    The function returns the probability of each candidate, in the request's order, and whether the
    member's embedding was used. It raises `LimamlError` if there is no answer.

    Args:
        target: Address of the model server.
        export: Folder written by ``limaml export``.
        store: Address of the embedding store.
        log: File for the messages of the process.
    """
    options = ["--target", target, "--export", str(export), "--store", store]
    # The first requests after a start may be slow on a busy machine.
    command = [*LIMAML, "rank", *options, "--timeout", "30"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, queue.Queue[str]()
    reader = threading.Thread(target=_pass_on, args=(process.stdout, answers), daemon=True)
    reader.start()

    def rank(request: Mapping[str, Any]) -> tuple[Floats, bool]:
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            answer = answers.get(timeout=_ANSWER_SECONDS)
        except (OSError, queue.Empty):
            answer = ""
        if not answer:
            output = log.read_text(errors="replace").strip().splitlines()
            raise LimamlError(
                f"`limaml rank` did not answer: {output[-1] if output else 'it printed nothing'}"
            )
        ranked = sorted(json.loads(answer)["ranked"], key=lambda row: int(row["candidate"]))
        return np.array([row["probability"] for row in ranked]), bool(ranked[0]["used_embedding"])

    try:
        yield rank
    finally:
        stop_process(process)
        reader.join()


def _pass_on(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Puts the lines of a stream into a queue, and an empty text after the last one."""
    for line in stream:
        lines.put(line)
    lines.put("")
