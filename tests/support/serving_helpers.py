"""Helpers for tests that observe a server from outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Returns once `condition` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def sample(server: Any, name: str, **labels: str) -> float:
    """The value of a metric of the embedded server; 0 if there is none."""
    return server.metrics.registry.get_sample_value(f"limaml_serve_{name}", labels) or 0.0


def write_warmup(directory: Path, requests: Any) -> None:
    """Writes Predict requests to a version's warm-up file."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    (directory / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(
        str(directory / "assets.extra" / "tf_serving_warmup_requests")
    ) as writer:
        for request in requests:
            log = PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether a process listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
