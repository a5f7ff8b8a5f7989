"""One-line errors from the exceptions of runners."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

from limaml_beam.io import s3, worker_process
from tfrec_limaml.cli import TerminatedError
from tfrec_limaml.errors import LimamlError

# Runners with worker processes send a worker's exception as text: the last line of its traceback,
# after the exception's type.
_PACKAGE_ERROR = re.compile(r"(?:tfrec_limaml|limaml_beam)\.[\w.]*Error: (.*)")
_FILE_ERROR = re.compile(
    r"^(?:[\w.]+\.)?(?:OSError|IOError|BeamIOError|PermissionError|FileNotFoundError): (.*)",
    re.MULTILINE,
)
# S3's errors are shown as message and code.
_S3_ERROR = re.compile(
    r"S3ClientError: \(['\"](.*?)(?:['\"], \w+\)$| \[while running )", re.MULTILINE
)
_INTERRUPT = re.compile(
    r"^(?:RuntimeError: )?(?:KeyboardInterrupt|(?:[\w.]+\.)?(TerminatedError))\b", re.MULTILINE
)
_STEP_SUFFIX = re.compile(r" \[while running '.*", re.DOTALL)


@contextlib.contextmanager
def readable(output: str) -> Iterator[None]:
    """Turns a runner's exception into the error of the worker that caused it.

    This applies to errors that a user can fix, and to Ctrl-C; other exceptions pass unchanged.

    Args:
        output: Where the pipeline writes, for messages.

    Raises:
        LimamlError: The worker's, without the runner's additions; a file that could not be
            written; or a worker process that was killed.
        KeyboardInterrupt: Ctrl-C or SIGTERM came while a step ran; runners pass it on as a
            `RuntimeError`.
    """
    worker_process.failures.clear()
    try:
        yield
    except LimamlError as error:
        raise type(error)(_STEP_SUFFIX.sub("", str(error))) from error
    except (OSError, S3ClientError) as error:
        raise _cannot_write(output, s3.reason_of(error)) from error
    except (RuntimeError, DataflowRuntimeException) as error:
        if interrupt := _INTERRUPT.search(str(error)):
            raise (TerminatedError if interrupt[1] else KeyboardInterrupt) from error
        if match := _PACKAGE_ERROR.search(str(error)):
            raise LimamlError(_STEP_SUFFIX.sub("", match.group(1))) from error
        if match := _FILE_ERROR.search(str(error)):
            raise _cannot_write(output, match.group(1)) from error
        if match := _S3_ERROR.search(str(error)):
            raise _cannot_write(output, s3.with_remedy(match.group(1))) from error
        if worker_process.failures:
            raise LimamlError(worker_process.failures[0]) from error
        raise


def _cannot_write(output: str, reason: str) -> LimamlError:
    return LimamlError(f"cannot write below {output}: {_STEP_SUFFIX.sub('', reason)}")
