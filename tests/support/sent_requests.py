"""Features of requests, and what arrives of their values."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from limaml_serving.client.columns import RowReader
from limaml_serving.client.predict_request import RequestWriter
from tfrec_limaml.schema.schema import Feature


def sent(feature, values, dim=1, has=True):
    """The request for candidates with these values as TensorFlow's own messages read it: arrays by
    input.
    """
    rows = RowReader([feature], [["k"]]).read({"k": 1}, {feature.name: values})
    embedding = np.arange(dim, dtype=np.float32)[None]
    content = RequestWriter([feature], dim).write(
        "m", 3, [rows], [[embedding]], [[np.array([has])]]
    )
    return {
        name: tf.make_ndarray(tensor)
        for name, tensor in predict_pb2.PredictRequest.FromString(content).inputs.items()
    }


def sent_column(feature, values):
    """What arrives of the feature's values."""
    return sent(feature, values)[feature.name]


def number(dtype="float32", **more):
    return Feature(name="x", dtype=dtype, encoding="numeric", **more)


def text(**more):
    return Feature(name="x", dtype="string", encoding="vocabulary", **more)
