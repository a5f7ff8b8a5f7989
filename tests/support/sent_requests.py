"""Features of requests, and their values as a server reads them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from limaml_serving.client.columns import RowReader
from limaml_serving.client.predict_request import RequestWriter
from tfrec_limaml.schema.schema import Feature


def sent(feature, values, dim=1, has=True):
    """The arrays of a request, by input, as TensorFlow's own messages decode them.

    The request is for candidates with these values of a feature.
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
    """The feature's values in the request."""
    return sent(feature, values)[feature.name]


def number(dtype="float32", **more):
    return Feature(name="x", dtype=dtype, encoding="numeric", **more)


def text(**more):
    return Feature(name="x", dtype="string", encoding="vocabulary", **more)
