"""Warm-up requests: TensorFlow Serving replays them before a version becomes available."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfrec_limaml.manifest import (
    EXTRA_DIRECTORY,
    RANK_SIGNATURE,
    SERVING_SIGNATURE,
    Manifest,
    embedding_inputs,
)
from tfrec_limaml.schema.schema import Feature, Schema

WARMUP_FILE = f"{EXTRA_DIRECTORY}/tf_serving_warmup_requests"
# Of a model in its own warm-up requests.
_MODEL_NAME = "ranker"
#: Numbers of candidates that are warmed up.
BATCH_SIZES = (1, 10, 100, 500)


def write_warmup(ranker_directory: Path, manifest: Manifest) -> Path:
    """Writes a warm-up request per signature and number of candidates; returns the file's path."""
    path = Path(ranker_directory) / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = Schema.from_dict(manifest.schema)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in (SERVING_SIGNATURE, RANK_SIGNATURE):
            for size in BATCH_SIZES:
                request = _request(schema, manifest, signature, size)
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())
    return path


def _request(
    schema: Schema, manifest: Manifest, signature: str, rows: int
) -> predict_pb2.PredictRequest:
    """A request in the shapes that clients send: for `rank` the member's columns have one row."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = _MODEL_NAME
    request.model_spec.signature_name = signature
    member_inputs = _member_inputs(schema, manifest) if signature == RANK_SIGNATURE else frozenset()
    arrays: dict[str, Any] = {
        feature.name: _default(feature, 1 if feature.name in member_inputs else rows)
        for feature in schema.all_features
    }
    for stored, has in embedding_inputs(manifest.further_definitions):
        count = 1 if stored in member_inputs else rows
        arrays[stored] = np.zeros((count, manifest.embedding_dim), np.float32)
        arrays[has] = np.zeros(count, bool)
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request


def _member_inputs(schema: Schema, manifest: Manifest) -> frozenset[str]:
    """The inputs that belong to the member: its key columns, meta features and embedding.

    Other key columns of a further task definition, and its embedding, vary by candidate.
    """
    member = set(schema.task_columns(manifest.task_definition))
    later_keys = [set(schema.task_columns(name)) for name in manifest.further_definitions]
    varying = set().union(*later_keys) - member
    names = {
        feature.name
        for feature in schema.all_features
        if feature.name in member or (feature.role == "meta" and feature.name not in varying)
    }
    (first, _), *later_inputs = embedding_inputs(manifest.further_definitions)
    names.add(first)
    names.update(
        stored
        for (stored, _), columns in zip(later_inputs, later_keys, strict=True)
        if columns <= member
    )
    return frozenset(names)


def _default(feature: Feature, rows: int) -> Any:
    shape = (rows,) if feature.width == 1 else (rows, feature.width)
    kind: Any = {"string": object, "int64": np.int64, "float32": np.float32}[feature.dtype]
    return np.full(shape, feature.default_value, kind)
