"""PredictionService: Predict and GetModelMetadata."""

from __future__ import annotations

import math
import time
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from limaml_serving.server.errors import RequestError, invalid
from limaml_serving.server.manager import ModelManager
from limaml_serving.server.metrics import OTHER, Metrics
from limaml_serving.server.runner import LONGEST_RUN_MS
from limaml_serving.server.tensors import Budget, decode, encode

_SIGNATURES = "signature_def"


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Answers predictions; classify, regress and multi-inference are left to the real server
    (UNIMPLEMENTED).

    Args:
        manager: The models.
        metrics: Counts what is answered.
        max_rows: Largest first axis of an input.
        max_bytes: Most bytes that the inputs of one request may take once decoded.
    """

    def __init__(
        self, manager: ModelManager, metrics: Metrics, *, max_rows: int, max_bytes: int
    ) -> None:
        self._manager = manager
        self._metrics = metrics
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Runs one signature of one version on the request's inputs."""
        return self._answer("Predict", request, context, lambda: self._predict(request, context))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Describes the signatures of one version."""
        return self._answer("GetModelMetadata", request, context, lambda: self._metadata(request))

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        timeout_ms = _time_left_ms(context)
        with self._manager.lease(request.model_spec) as (version, runner):
            signature = runner.signature(request.model_spec.signature_name)
            given = request.inputs
            signature.check_inputs(set(given))
            outputs = signature.select_outputs(request.output_filter)
            budget = Budget(rows=self._max_rows, remaining=self._max_bytes)
            inputs = {
                name: decode(spec, given[name], budget) for name, spec in signature.inputs.items()
            }
            values = runner.run(signature, inputs, outputs, timeout_ms)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature.name
        for name, value in zip(outputs, values, strict=True):
            response.outputs[name].CopyFrom(encode(signature.outputs[name], value))
        return response

    def _metadata(self, request: Any) -> Any:
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
        return response

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext, work: Any) -> Any:
        name = request.model_spec.name
        model = name if self._manager.is_configured(name) else OTHER
        started = time.perf_counter()
        code = grpc.StatusCode.UNKNOWN
        try:
            response = work()
            code = grpc.StatusCode.OK
            return response
        except RequestError as error:
            code = error.code
            context.abort(code, error.message)
        finally:
            self._metrics.observe(model, method, code.name, time.perf_counter() - started)


def _time_left_ms(context: grpc.ServicerContext) -> int:
    """Milliseconds until the client's deadline. gRPC itself drops a request whose client is gone
    before its turn.
    """
    return math.ceil(
        min(1000 * context.time_remaining(), LONGEST_RUN_MS)
    )  # infinite without a deadline
