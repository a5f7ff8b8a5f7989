"""Errors of the ranker client and the embedded server."""

from __future__ import annotations

from typing import Any

from tfrec_limaml.errors import LimamlError


class RequestError(LimamlError):
    """A request is invalid, and nothing was sent to the server.

    The member or the candidates do not fit the model's schema, or an argument of the call is out of
    range.
    """


class ConfigError(LimamlError):
    """The settings of the embedded server or of its models are invalid."""


class ServingError(LimamlError):
    """The model server did not answer with scores.

    Attributes:
        code: Name of the gRPC status code, for example ``"DEADLINE_EXCEEDED"``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def quote(values: Any) -> str:
    """A value as text for an error message, at most 80 characters long."""
    text = repr(values.tolist() if hasattr(values, "tolist") else values)
    return text if len(text) <= 80 else text[:77] + "..."
