"""gRPC server reflection, so that grpcurl and similar tools can list and call the services.

The generated modules that describe the two services cannot be imported under protobuf 6. The
descriptions are therefore built here from those of the messages.
"""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from limaml_serving.server.health import HEALTH_SERVICE

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_METHODS: dict[str, dict[str, tuple[Any, Any]]] = {
    PREDICTION_SERVICE: {
        "Classify": (
            classification_pb2.ClassificationRequest,
            classification_pb2.ClassificationResponse,
        ),
        "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "MultiInference": (
            inference_pb2.MultiInferenceRequest,
            inference_pb2.MultiInferenceResponse,
        ),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
    },
    MODEL_SERVICE: {
        "GetModelStatus": (
            get_model_status_pb2.GetModelStatusRequest,
            get_model_status_pb2.GetModelStatusResponse,
        ),
        "HandleReloadConfigRequest": (
            model_management_pb2.ReloadConfigRequest,
            model_management_pb2.ReloadConfigResponse,
        ),
    },
}


def enable_reflection(server: grpc.aio.Server) -> None:
    """Adds the reflection service to `server`."""
    names = (PREDICTION_SERVICE, MODEL_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_describe())


def _describe() -> descriptor_pool.DescriptorPool:
    """A pool of its own, so that nothing is added to the process-wide one."""
    pool = descriptor_pool.DescriptorPool()
    file_names: set[str] = set()
    _add(pool, file_names, health_pb2.DESCRIPTOR)
    for service, methods in _METHODS.items():
        package, _, name = service.rpartition(".")
        file = descriptor_pb2.FileDescriptorProto(
            name=f"limaml/{name}.proto", package=package, syntax="proto3"
        )
        definition = file.service.add(name=name)
        for method, (request, response) in methods.items():
            for message in (request.DESCRIPTOR, response.DESCRIPTOR):
                _add(pool, file_names, message.file)
                if message.file.name not in file.dependency:
                    file.dependency.append(message.file.name)
            definition.method.add(
                name=method,
                input_type=f".{request.DESCRIPTOR.full_name}",
                output_type=f".{response.DESCRIPTOR.full_name}",
            )
        pool.Add(file)
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file_names: set[str], file: Any) -> None:
    """Adds a file after everything that it depends on."""
    if file.name in file_names:
        return
    file_names.add(file.name)
    for dependency in file.dependencies:
        _add(pool, file_names, dependency)
    pool.AddSerializedFile(file.serialized_pb)
