"""Time limits for workers that wait for one another, and the error if a worker is lost."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.errors import LimamlError

_REMEDY = "start all workers again: with --resume they continue from the newest checkpoint"


class TimeLimit:
    """Ends the process with a message when an operation exceeds a time limit.

    A worker that waits for another one is in native code, where Python exceptions have no effect.

    Args:
        seconds: The limit.
        operation: The operation, for the message.
        end: Called with the message when the limit is exceeded; exits the process by default.
    """

    def __init__(
        self, seconds: float, operation: str, end: Callable[[str], None] | None = None
    ) -> None:
        self.seconds = seconds
        self.operation = operation
        self._end = _exit if end is None else end
        self._stopped = threading.Event()
        self._deadline = time.monotonic() + seconds

    def __enter__(self) -> TimeLimit:
        self.renew()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def renew(self) -> None:
        """Restarts the limit."""
        self._deadline = time.monotonic() + self.seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context without a limit, for work in which no worker waits for another one."""
        self._deadline = math.inf
        try:
            yield
        finally:
            self.renew()

    def _watch(self) -> None:
        while not self._stopped.wait(min(self.seconds, self._remaining())):
            if self._remaining() <= 0:
                self._end(
                    f"no progress in {self.seconds:g} s, waiting for {self.operation}: one of them "
                    f"may be gone or hang; {_REMEDY}"
                )
                return

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def _exit(message: str) -> None:
    print(f"limaml: error: {message}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(2)


class RenewTimeLimit(keras.callbacks.Callback):
    """Renews a limit after each batch, of training and validation."""

    def __init__(self, limit: TimeLimit) -> None:
        super().__init__()
        self.limit = limit

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Renews the limit."""
        self.limit.renew()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Renews the limit."""
        self.limit.renew()


def worker_lost_error(error: tf.errors.OpError) -> LimamlError:
    """The error to raise if an operation over all workers failed."""
    match = re.search(
        r"Error reported from .*|(?:failed to connect|Connection).*", str(error.message)
    )
    reason = match[0][:200].rstrip(": ") if match else type(error).__name__
    return LimamlError(f"another worker is gone ({reason}); {_REMEDY}")
