"""Errors that travel to a client as a gRPC status."""

from __future__ import annotations

import grpc

from tfrec_limaml.errors import LimamlError

#: gRPC and TensorFlow use the same numbers for status codes.
CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

#: Longest message that goes into a status; gRPC carries it in a header, which is bounded.
MESSAGE_LIMIT = 1024


class StatusError(LimamlError):
    """A request that is answered with a status instead of a result.

    Attributes:
        code: The gRPC status code.
        message: What is wrong, shortened to `MESSAGE_LIMIT` characters.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = (
            message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 3] + "..."
        )


def describe(error: BaseException) -> str:
    """The text of an error; its type if it has none, or if the conversion to text fails.

    TensorFlow's messages may quote bytes that are not UTF-8, for which ``str(error)`` itself
    raises.
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001
        text = ""
    return text or type(error).__name__


def invalid(message: str) -> StatusError:
    """The error for INVALID_ARGUMENT."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> StatusError:
    """The error for FAILED_PRECONDITION."""
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message)


def not_found(message: str) -> StatusError:
    """The error for NOT_FOUND."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message)


def from_runtime(code: int, message: str) -> StatusError:
    """The status of an error raised by the TensorFlow runtime (``tf.errors.OpError``)."""
    return StatusError(CODES.get(code, grpc.StatusCode.UNKNOWN), message)
