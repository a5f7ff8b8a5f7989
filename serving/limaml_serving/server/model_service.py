"""ModelService: the state of each version, and a new configuration at run time."""

from __future__ import annotations

from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)

from limaml_serving.server.config import ConfigError, from_proto
from limaml_serving.server.errors import RequestError, invalid, not_found
from limaml_serving.server.manager import ModelManager


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """Answers for the state of models and takes new configurations.

    Args:
        manager: The models.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """State of one version, or of all versions ever seen of a model."""
        try:
            return self._status(request)
        except RequestError as error:
            context.abort(error.code, error.message)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Replaces the configuration; the answer comes once it is in force."""
        try:
            self._manager.reload(from_proto(request.config))
        except ConfigError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except RequestError as error:
            context.abort(error.code, error.message)
        return model_management_pb2.ReloadConfigResponse(status={"error_code": 0})

    def _status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        statuses = self._manager.statuses(spec.name)
        if spec.HasField("version"):
            number = spec.version.value
            if number not in statuses:
                raise not_found(f"Could not find version {number} of model {spec.name}")
            statuses = {number: statuses[number]}
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, (state, error) in statuses.items():
            one = response.model_version_status.add(version=number, state=state)
            one.status.error_code = (
                grpc.StatusCode.INVALID_ARGUMENT.value[0] if error else grpc.StatusCode.OK.value[0]
            )
            one.status.error_message = error
        return response
