"""Processes of scripts that start without importing TensorFlow again.

A test that needs a process of its own (to be killed, to have other devices, another hash seed)
asks for a fork of an interpreter that has imported TensorFlow and not used it::

    fork = forks().start(SCRIPT, "argument", TF_CONFIG="...")
    done = fork.wait(300)    # done.returncode, done.stdout, done.stderr

Run as a script, this module is that interpreter: it reads one JSON object per line, ``{"script",
"arguments", "environment", "output"}`` or ``{"wait", "seconds"}``, and answers each with a line.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """An ended process: a negative code is the signal that ended it."""

    returncode: int
    stdout: str
    stderr: str


class Fork:
    """A running process."""

    def __init__(self, server: Forks, pid: int, output: Path) -> None:
        self.pid = pid
        self._server, self._output = server, output

    def wait(self, seconds: float) -> Done:
        """What became of it; it is killed where it takes longer."""
        code = self._server.ask({"wait": self.pid, "seconds": seconds})
        texts = [(self._output / name).read_bytes().decode() for name in ("stdout", "stderr")]
        assert code is not None, f"still running after {seconds} s: {texts[1][-2000:]}"
        return Done(code, *texts)


class Forks:
    """The interpreter that is forked.

    Args:
        environment: Variables of the interpreter itself, such as ``PYTHONHASHSEED``.
    """

    def __init__(self, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def start(self, script: Path, *arguments: object, **environment: str) -> Fork:
        """Runs a script as ``python SCRIPT ARGUMENTS`` would."""
        self._count += 1
        output = Path(self._folder.name) / str(self._count)
        output.mkdir()
        pid = self.ask(
            {
                "script": str(script),
                "arguments": [str(argument) for argument in arguments],
                "environment": environment,
                "output": str(output),
            }
        )
        return Fork(self, pid, output)

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the interpreter, and what was not waited for."""
        self._process.communicate()
        self._folder.cleanup()


def _run(script: str, arguments: list[str], environment: dict[str, str], output: str) -> int:
    """In the child: the script's exit code."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tfrec_limaml.tensorflow_setup import import_tensorflow

    import_tensorflow()  # once for all forks
    import tfrec_limaml.training.train  # noqa: F401

    running = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], request["seconds"])
            running.discard(request["wait"])
        else:
            answer = os.fork()
            if not answer:
                os.close(answers.fileno())
                os.close(0)
                code = 1
                try:
                    code = _run(**request)
                except BaseException:  # noqa: BLE001 - a traceback, as an interpreter prints it
                    sys.excepthook(*sys.exc_info())
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            running.add(answer)
        print(json.dumps(answer), file=answers, flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
