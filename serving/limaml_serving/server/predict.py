"""PredictionService: Predict and GetModelMetadata; the other methods answer UNIMPLEMENTED."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from limaml_serving.server.admission import Call, Pool
from limaml_serving.server.encoding import encode, encoded_size
from limaml_serving.server.errors import StatusError, invalid
from limaml_serving.server.front import Front, add_service
from limaml_serving.server.limits import Limits
from limaml_serving.server.manager import ModelManager
from limaml_serving.server.metrics import OTHER, Metrics
from limaml_serving.server.reflection import PREDICTION_SERVICE
from limaml_serving.server.runner import LONGEST_RUN_MS
from limaml_serving.server.tensors import decode

_SIGNATURES = "signature_def"


class PredictionService:
    """Answers predictions.

    Args:
        manager: The models.
        metrics: Counts the answers.
        limits: Limits of one request.
        workers: Threads for predictions.
        control: Threads for metadata.
    """

    def __init__(
        self,
        manager: ModelManager,
        metrics: Metrics,
        limits: Limits,
        *,
        workers: Pool,
        control: Pool,
    ) -> None:
        self._manager = manager
        self._metrics = metrics
        self._limits = limits
        self._workers = workers
        self._control = control

    def add_to(self, server: Any, front: Front) -> None:
        """Adds the service to a gRPC server."""
        handlers = {
            "Predict": front.unary(self._predict_in_thread),
            "GetModelMetadata": front.unary(lambda call: self._control.run(self.metadata, call)),
        }
        add_service(server, PREDICTION_SERVICE, handlers)

    def predict(self, call: Call) -> bytes:
        """Runs one signature of one version on the request's inputs."""
        request = predict_pb2.PredictRequest.FromString(call.content)
        return self._observe("Predict", request, lambda: self._predict(request, call))

    def metadata(self, call: Call) -> bytes:
        """Describes the signatures of one version."""
        request = get_model_metadata_pb2.GetModelMetadataRequest.FromString(call.content)
        return self._observe("GetModelMetadata", request, lambda: self._metadata(request))

    async def _predict_in_thread(self, call: Call) -> bytes:
        if self._workers.is_full:
            self._metrics.refuse()
        return await self._workers.run(self.predict, call)

    def _predict(self, request: Any, call: Call) -> bytes:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        with self._manager.lease(request.model_spec) as (version, runner):
            signature = runner.signature(request.model_spec.signature_name)
            tensors = request.inputs
            signature.check_inputs(set(tensors))
            outputs = signature.select_outputs(request.output_filter)
            budget = self._limits.budget()
            inputs = {
                name: decode(spec, tensors[name], budget) for name, spec in signature.inputs.items()
            }
            timeout_ms = math.ceil(min(1000 * call.seconds_left(), LONGEST_RUN_MS))
            values = runner.run(signature, inputs, outputs, timeout_ms)
        call.seconds_left()  # raises if the client no longer waits
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature.name
        self._limits.check_response(sum(map(encoded_size, values)))
        for name, value in zip(outputs, values, strict=True):
            proto = encode(signature.outputs[name], value, call.seconds_left)
            response.outputs[name].CopyFrom(proto)
        content: bytes = response.SerializeToString()
        self._limits.check_response(len(content))
        return content

    def _metadata(self, request: Any) -> bytes:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        with self._manager.lease(request.model_spec) as (version, runner):
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=runner.signature_definitions
            )
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata[_SIGNATURES].Pack(signatures)
        content: bytes = response.SerializeToString()
        return content

    def _observe(self, method: str, request: Any, work: Callable[[], bytes]) -> bytes:
        name = request.model_spec.name
        model = name if self._manager.is_configured(name) else OTHER
        started = time.perf_counter()
        code = grpc.StatusCode.INTERNAL
        try:
            response = work()
            code = grpc.StatusCode.OK
            return response
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._metrics.observe(model, method, code.name, time.perf_counter() - started)
