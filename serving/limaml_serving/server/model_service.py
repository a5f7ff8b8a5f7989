"""ModelService: the state of each version, and a new configuration at run time."""

from __future__ import annotations

from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from limaml_serving.errors import ConfigError
from limaml_serving.server.admission import Call, Pool
from limaml_serving.server.config import from_proto
from limaml_serving.server.errors import StatusError, describe, invalid, not_found
from limaml_serving.server.front import Front, add_service
from limaml_serving.server.manager import ModelManager
from limaml_serving.server.reflection import MODEL_SERVICE


class ModelService:
    """Reports the state of models and accepts new configurations.

    Args:
        manager: The models.
        control: Threads for the state.
        reloads: A thread for new configurations, which take as long as loading their models.
        may_reload: Whether clients may change the configuration.
    """

    def __init__(
        self, manager: ModelManager, *, control: Pool, reloads: Pool, may_reload: bool
    ) -> None:
        self._manager = manager
        self._control = control
        self._reloads = reloads
        self._may_reload = may_reload

    def add_to(self, server: Any, front: Front) -> None:
        """Adds the service to a gRPC server."""
        handlers = {
            "GetModelStatus": front.unary(lambda call: self._control.run(self.status, call)),
            "HandleReloadConfigRequest": front.unary(
                lambda call: self._reloads.run(self.reload, call)
            ),
        }
        add_service(server, MODEL_SERVICE, handlers)

    def status(self, call: Call) -> bytes:
        """State of one version, or of all versions ever seen of a model."""
        request = get_model_status_pb2.GetModelStatusRequest.FromString(call.content)
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
            entry = response.model_version_status.add(version=number, state=state)
            entry.status.error_code = (
                grpc.StatusCode.INVALID_ARGUMENT.value[0] if error else grpc.StatusCode.OK.value[0]
            )
            entry.status.error_message = error
        content: bytes = response.SerializeToString()
        return content

    def reload(self, call: Call) -> bytes:
        """Replaces the configuration; answers once it is in force."""
        request = model_management_pb2.ReloadConfigRequest.FromString(call.content)
        if not self._may_reload:
            raise StatusError(
                grpc.StatusCode.PERMISSION_DENIED,
                "this server takes no new configuration from clients; start it with "
                "--allow-reload, or restart it with another --models-config",
            )
        try:
            self._manager.reload(from_proto(request.config))
        except ConfigError as error:
            raise invalid(describe(error)) from error
        response = model_management_pb2.ReloadConfigResponse(status={"error_code": 0})
        content: bytes = response.SerializeToString()
        return content
