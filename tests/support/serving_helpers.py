"""Helpers for tests that observe a server from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
