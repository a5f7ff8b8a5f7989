"""The messages of TensorFlow Serving's protocol that the client needs, without TensorFlow.

The generated modules of ``tensorflow-serving-api`` import the ``tensorflow`` package, which takes
several seconds and hundreds of megabytes in every web worker. The encoding of a protobuf message
depends only on its field numbers. The fields that are needed are declared here, in a separate
descriptor pool, which does not collide with the originals in the same process. The numbers come
from ``tensorflow_serving/apis/{predict,model,get_model_metadata}.proto`` and
``tensorflow/core/framework/{tensor,tensor_shape,types}.proto``; a test compares every one with the
installed originals.
"""

from __future__ import annotations

from tfrec_limaml.wire_format import opening
from tfrec_limaml.wire_messages import message_classes

PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
METADATA_METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"

# tensorflow.DataType
DT_FLOAT, DT_STRING, DT_INT64, DT_BOOL = 1, 7, 9, 10

# message -> field -> (number, type); "*" marks a repeated field, "map:" a map from string
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Int64Value": {"value": (1, "int64")},
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "*Dim")},
    "TensorProto": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (
            5,
            "bytes",
        ),  # packed floats, which are one block of little-endian bytes: read as such
        "string_val": (8, "*bytes"),
    },
    "Texts": {
        "string_val": (8, "*string")
    },  # a TensorProto of text only: takes str without encoding it first
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "map:TensorProto"),
        "output_filter": (3, "*string"),
    },
    "PredictResponse": {"outputs": (1, "map:TensorProto"), "model_spec": (2, "ModelSpec")},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "*string")},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec")},
}


_classes = message_classes("limaml.wire", _MESSAGES)
TensorProto = _classes["TensorProto"]
Texts = _classes["Texts"]
ModelSpec = _classes["ModelSpec"]
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
GetModelMetadataRequest = _classes["GetModelMetadataRequest"]
GetModelMetadataResponse = _classes["GetModelMetadataResponse"]


def entry_head(name: str, size: int) -> bytes:
    """The bytes of an entry of ``PredictRequest.inputs`` before a `TensorProto` of `size` bytes."""
    key = name.encode()
    key = opening(1, len(key)) + key
    value = opening(2, size)
    return opening(2, len(key) + len(value) + size) + key + value


def content_head(size: int) -> bytes:
    """The bytes that go before ``TensorProto.tensor_content`` of `size` bytes."""
    return opening(4, size)
