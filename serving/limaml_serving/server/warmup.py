"""Warm-up: the recorded requests of a version are replayed before it serves."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from limaml_serving.export_hook import WARMUP_FILE
from limaml_serving.server.errors import StatusError, describe
from limaml_serving.server.limits import Limits
from limaml_serving.server.runner import LoadError, SavedModelRunner
from limaml_serving.server.tensors import decode

#: Most records read, as in TensorFlow Serving.
MAX_RECORDS = 1000

#: Most bytes that a record's inputs may take: more than a client's request, but not all memory.
_LIMITS = Limits(rows=2**62, decoded_bytes=2**30, response_bytes=2**62)


def warm_up(runner: SavedModelRunner, directory: Path) -> int:
    """Replays the warm-up requests of a version, if it has any.

    Returns:
        How many were replayed.

    Raises:
        LoadError: The file cannot be read, has too many records, or a request fails: such a
            version would fail its clients too.
    """
    path = directory / WARMUP_FILE
    if not path.is_file():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            count += 1
            if count > MAX_RECORDS:
                raise LoadError(f"{WARMUP_FILE} holds more than {MAX_RECORDS} records; remove some")
            _replay(runner, PredictionLog.FromString(record))
    except (tf.errors.OpError, DecodeError) as error:
        raise LoadError(
            f"cannot read record {count} of {WARMUP_FILE}: {describe(error)}"
        ) from error
    except StatusError as error:
        raise LoadError(f"request {count} of {WARMUP_FILE} fails: {error.message}") from error
    return count


def _replay(runner: SavedModelRunner, log: PredictionLog) -> None:
    if log.WhichOneof("log_type") != "predict_log":
        raise LoadError(
            f"{WARMUP_FILE} may only hold predict_log records, found {log.WhichOneof('log_type')}"
        )
    request = log.predict_log.request
    signature = runner.signature(request.model_spec.signature_name)
    signature.check_inputs(set(request.inputs))
    budget = _LIMITS.budget()
    inputs = {
        name: decode(spec, request.inputs[name], budget) for name, spec in signature.inputs.items()
    }
    runner.run(signature, inputs, signature.select_outputs(request.output_filter))
