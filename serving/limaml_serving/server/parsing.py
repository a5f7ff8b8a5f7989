"""Reads requests inside the handler, where a malformed one is an ordinary refusal.

gRPC's own reading logs a stack trace for each malformed message and keeps some 16 KiB of it for
good (seen with grpcio 1.85), so that a client could fill the log and the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class Parsing(grpc.ServerInterceptor):  # type: ignore[misc]
    """Gives every unary handler the bytes of the request, and parses them before its work is
    done.
    """

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Called by gRPC for every call."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _parse_first(handler), None, handler.response_serializer
        )


def _parse_first(handler: Any) -> Callable[[bytes, grpc.ServicerContext], Any]:
    def answer(content: bytes, context: grpc.ServicerContext) -> Any:
        try:
            request = handler.request_deserializer(content)
        except DecodeError:
            context.abort(
                grpc.StatusCode.INTERNAL,
                f"the {len(content)} bytes received are not a valid request of this method",
            )
        return handler.unary_unary(request, context)

    return answer
