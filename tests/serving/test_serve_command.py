"""``limaml serve`` as a process: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from ports import free_port, listens
from waiting import wait_for


def command(base, port, *options, program=("-m", "tfrec_limaml")):
    model = [str(base), "--name", "m", "--port", str(port)]
    # Output that is not flushed stays in the buffer, as without the variable.
    return ["env", "-u", "PYTHONUNBUFFERED", sys.executable, *program, "serve", *model, *options]


def test_the_command_says_when_it_serves_and_drains_after_sigterm(base, connect, tmp_path):
    port, metrics_port = free_port(), free_port()
    metrics = f"http://127.0.0.1:{metrics_port}/metrics"
    result = {"target": f"127.0.0.1:{port}", "models": {"m": [1]}, "metrics": metrics}
    output = tmp_path / "output"
    options = ["--metrics-port", str(metrics_port), "--workers", "1", "--json"]
    code = "import sys; from tfrec_limaml.cli import main; code = main(); "
    code += "print('keras' in sys.modules, file=sys.stderr); sys.exit(code)"
    with output.open("w") as file:
        process = subprocess.Popen(
            command(base, port, *options, program=("-c", code)),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pending():
        with urllib.request.urlopen(metrics) as answer:
            return "limaml_serve_pending 1.0" in answer.read().decode()

    try:
        wait_for(lambda: output.read_text().endswith("}\n"), seconds=120)
        assert json.loads(output.read_text()) == result
        client = connect(f"127.0.0.1:{port}", name="m")
        assert client.logits() == [111.0, 1.0]
        running = client.prediction.Predict.future(
            client.request({"count": np.array([50_000])}, signature="spin"), timeout=60
        )
        wait_for(pending)
        process.terminate()
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert errors.endswith("False\n")  # a server starts without Keras
    assert json.loads(output.read_text()) == result
    assert running.result().outputs["sum"].int64_val[0] == 50_000


@pytest.mark.parametrize(
    ("number", "ignored", "ends"),
    [
        (signal.SIGHUP, False, True),
        (signal.SIGHUP, True, False),  # nohup
        (signal.SIGINT, True, True),  # a shell's background job
    ],
)
def test_a_server_drains_when_its_terminal_closes_unless_it_was_started_to_stay(
    number, ignored, ends
):
    from limaml_serving.commands.serve import _serve

    missed, stopped = [], []

    def start():
        os.kill(os.getpid(), number)
        if missed or not ends:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    manager = SimpleNamespace(available=dict)
    server = SimpleNamespace(
        start=start, stop=stopped.append, manager=manager, target="", metrics_target=None
    )
    try:
        signal.signal(number, signal.SIG_IGN if ignored else lambda *_: missed.append(number))
        _serve(server, 3.0, lambda result: None)
        assert not missed
        assert ends == (signal.getsignal(number) is not signal.SIG_IGN)
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert stopped == [3.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a model's base directory or --models-config"),
        (["{base}", "--models-config", "x"], "either a model's base directory or --models-config"),
        (["{base}/nowhere"], "no directory at"),
        (["{base}/1"], "pass the directory above it"),
        (["--models-config", "{base}/nowhere"], "no models config at"),
        (["{base}", "--name", "a\nb"], "is not allowed"),
        (["{base}", "--workers", "0"], "--workers must be a whole number, at least 1, received 0"),
        (
            ["{base}", "--max-message-mb", "2048"],
            "must be a whole number between 1 and 2047",
        ),
        (
            ["{base}", "--max-response-mb", "2048"],
            "--max-response-mb must be a whole",
        ),
        (["{base}", "--max-queue", "-1"], "--max-queue must be a whole number, at least 0"),
        (["{base}", "--grace-seconds", "nan"], "--grace-seconds must be not negative"),
        (
            ["{base}", "--poll-seconds", "nan"],
            "--poll-seconds must be positive",
        ),
        (["{base}", "--port", "70000"], "--port must be a whole number between 0 and 65535"),
        (["{base}", "--tls-key", "x"], "needs both"),
        (["{base}", "--tls-client-ca", "x"], "needs both"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve_in_one_line(base, capsys, arguments, words):
    from tfrec_limaml.cli import main

    assert main(["serve", *(each.format(base=base) for each in arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.parametrize("name", ["max_message_bytes", "max_response_bytes"])
def test_limits_beyond_those_of_grpc_are_refused(base, name):
    from limaml_serving.server import ConfigError, EmbeddedServer

    with pytest.raises(ConfigError, match=f"{name} must be a whole number between 1 and 2"):
        EmbeddedServer({"m": base}, **{name: 2**31})
    with EmbeddedServer({"m": base}, **{name: 2047 * 2**20}) as server:
        assert server.manager.available() == {"m": [1]}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"port": 99_999}, "port must be a whole number between 0 and 65535, received 99999"),
        ({"port": -1}, "port must be a whole number between 0"),
        ({"metrics_port": 99_999}, "metrics_port must be a whole number between 0"),
        ({"workers": 0}, "workers must be a whole number, at least 1, received 0"),
        ({"workers": 1.5}, "workers must be a whole number, at least 1, received 1.5"),
        ({"max_queue": -1}, "max_queue must be a whole number, at least 0, received -1"),
        ({"max_rows": 0}, "max_rows must be a whole number, at least 1, received 0"),
        ({"poll_seconds": float("nan")}, "poll_seconds must be positive"),
        ({"poll_seconds": 1e300}, "poll_seconds must be positive"),
        ({"poll_seconds": "1"}, "poll_seconds must be positive"),
    ],
)
def test_python_refuses_the_values_that_the_command_refuses(base, setting, expected):
    from limaml_serving.server import ConfigError, EmbeddedServer

    with pytest.raises(ConfigError, match=re.escape(expected)):
        EmbeddedServer({"m": base}, **setting)


@pytest.mark.parametrize(
    ("versions", "line"),
    [
        ({"a": [2, 3], "b": [1]}, "ready at h:1: a (version 2, 3), b (version 1)"),
        ({"a": [2], "b": []}, "waiting for versions at h:1: a (version 2), b (no version)"),
    ],
)
def test_one_line_gives_the_address_and_the_versions(versions, line):
    from limaml_serving.commands.serve import SERVE

    result = {"target": "h:1", "models": versions, "metrics": None}
    assert SERVE.text_of(result, as_json=False) == line
    result["metrics"] = "http://h:2/metrics"
    assert SERVE.text_of(result, as_json=False) == f"{line}; metrics at http://h:2/metrics"


@pytest.fixture
def start_on_full_disk(base, connect):
    """``start(stream)``: a server whose ``stdout`` or ``stderr`` cannot be written."""
    started = []

    def start(stream):
        port = free_port()
        with open("/dev/full", "w") as full:
            streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: full}
            process = subprocess.Popen(command(base, port), **streams)
        started.append(process)
        wait_for(lambda: listens(port) or process.poll() is not None, seconds=120)
        assert connect(f"127.0.0.1:{port}", name="m").logits() == [111.0, 1.0]
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_full_disk_under_stderr_does_not_stop_the_start(start_on_full_disk):
    assert start_on_full_disk("stderr").poll() is None


def test_a_full_disk_under_stdout_neither_stops_the_start_nor_changes_the_exit_code(
    start_on_full_disk,
):
    process = start_on_full_disk("stdout")
    process.terminate()
    assert process.wait(60) == 0


def test_a_base_directory_that_may_not_be_read_is_one_line(base, capsys, monkeypatch):
    from limaml_serving.commands import serve
    from tfrec_limaml.cli import main

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(serve.os, "listdir", refuse)
    assert main(["serve", str(base)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot read the model's base directory" in line
    assert "Permission denied" in line
