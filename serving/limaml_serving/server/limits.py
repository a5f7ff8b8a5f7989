"""Limits of one request, and the remaining budget while it is decoded."""

from __future__ import annotations

import dataclasses

import grpc

from limaml_serving.server.errors import StatusError, invalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request.

    Attributes:
        rows: Largest first axis of any input.
        decoded_bytes: Maximum number of bytes that the inputs may take once decoded.
        response_bytes: Largest response.
        strict_shapes: Whether inputs must have the signature's shape. TensorFlow Serving does not
            require that: the graph decides.
    """

    rows: int
    decoded_bytes: int
    response_bytes: int
    strict_shapes: bool = False

    def budget(self) -> Budget:
        """The budget of one request."""
        return Budget(rows=self.rows, remaining=self.decoded_bytes, strict=self.strict_shapes)

    def check_response(self, size: int) -> None:
        """Raises RESOURCE_EXHAUSTED if a response of `size` bytes is too large."""
        if size > self.response_bytes:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the outputs take {size} bytes, more than the {self.response_bytes} of a "
                "response; ask for fewer outputs or rows, or raise --max-response-mb",
            )


@dataclasses.dataclass(kw_only=True)
class Budget:
    """The remaining budget of one request.

    Attributes:
        rows: Largest first axis of any input.
        remaining: Bytes that the request's inputs may still take once decoded.
        strict: As `Limits.strict_shapes`.
    """

    rows: int
    remaining: int
    strict: bool = False

    def take(self, name: str, size: int) -> None:
        """Reserves `size` bytes for input `name`; raises INVALID_ARGUMENT if fewer remain."""
        if size > self.remaining:
            raise invalid(
                f"input {name}: {size} bytes once decoded, more than the {self.remaining} left to "
                "this request"
            )
        self.remaining -= size
