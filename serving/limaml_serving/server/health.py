"""gRPC health checking, answered from the server's current state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from limaml_serving.server.admission import Call
from limaml_serving.server.errors import StatusError, not_found
from limaml_serving.server.front import Front, add_service

HEALTH_SERVICE = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
#: Longest request that is parsed, in bytes: a health check holds one name.
_LONGEST = 64 * 1024
#: Seconds between two checks of a watching client's stream.
_WATCH_SECONDS = 0.5


class Health:
    """The health service; it needs no thread.

    Args:
        services: Whether each named service is healthy; called for every answer.
    """

    def __init__(self, services: Mapping[str, Callable[[], bool]]) -> None:
        self._services = dict(services)
        self.stopping = False

    def add_to(self, server: Any, front: Front) -> None:
        """Adds the service to a gRPC server."""
        handlers = {"Check": front.unary(self._check), "Watch": front.stream(self._watch)}
        add_service(server, HEALTH_SERVICE, handlers)

    def status(self, service: str) -> Any:
        """SERVING, NOT_SERVING or SERVICE_UNKNOWN."""
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if not self.stopping and self._services[service]() else _NOT_SERVING

    async def _check(self, call: Call) -> bytes:
        service = _service(call.content)
        status = self.status(service)
        if status == _UNKNOWN:
            raise not_found(f"unknown service {service[:100]!r}; known: {sorted(self._services)}")
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    async def _watch(self, call: Call, context: Any) -> None:
        service, sent = _service(call.content), None
        while True:
            status = self.status(service)
            if status != sent:
                answer = health_pb2.HealthCheckResponse(status=status)
                await context.write(answer.SerializeToString())
                sent = status
            await asyncio.sleep(_WATCH_SECONDS)


def _service(content: bytes) -> str:
    if len(content) > _LONGEST:
        raise StatusError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"a health check of {len(content)} bytes, more than {_LONGEST}",
        )
    return str(health_pb2.HealthCheckRequest.FromString(content).service)
