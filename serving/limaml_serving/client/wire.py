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

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfrec_limaml.wire_format import opening

PREDICT_METHOD = "/tensorflow.serving.PredictionService/Predict"
METADATA_METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"

# tensorflow.DataType
DT_FLOAT, DT_STRING, DT_INT64, DT_BOOL = 1, 7, 9, 10

_PACKAGE = "limaml.wire"
_TYPES = {"int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12}

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


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="limaml_serving/wire.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind.startswith("map:"):
                entry = message.nested_type.add(
                    name=f"{field.capitalize()}Entry", options={"map_entry": True}
                )
                _add(entry, "key", 1, "string")
                _add(entry, "value", 2, kind.removeprefix("map:"))
                kind = f"*{name}.{entry.name}"
            _add(message, field, number, kind)
    return file


def _add(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=3 if kind.startswith("*") else 1)
    kind = kind.removeprefix("*")
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = 11, f".{_PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_file().SerializeToString())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


TensorProto = _class("TensorProto")
Texts = _class("Texts")
ModelSpec = _class("ModelSpec")
PredictRequest = _class("PredictRequest")
PredictResponse = _class("PredictResponse")
GetModelMetadataRequest = _class("GetModelMetadataRequest")
GetModelMetadataResponse = _class("GetModelMetadataResponse")


def entry_head(name: str, size: int) -> bytes:
    """The bytes of an entry of ``PredictRequest.inputs`` before a `TensorProto` of `size` bytes."""
    key = name.encode()
    key = opening(1, len(key)) + key
    value = opening(2, size)
    return opening(2, len(key) + len(value) + size) + key + value


def content_head(size: int) -> bytes:
    """The bytes that go before ``TensorProto.tensor_content`` of `size` bytes."""
    return opening(4, size)
