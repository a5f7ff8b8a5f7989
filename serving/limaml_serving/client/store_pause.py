"""When a store that fails is asked again, so that not every request waits for it in vain."""

from __future__ import annotations

import threading
import time

#: Failures in a row after which the store is asked only by one look-up per `SECONDS`.
FAILURES = 5
SECONDS = 1.0


class StorePause:
    """Decides whether to ask the store: always, unless its last look-ups have failed.

    A store that hangs takes half of the time of a request. After `FAILURES` in a row the others go
    without an embedding at once, and one look-up per `SECONDS` tries the store, until one has an
    answer. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def asks(self) -> bool:
        """Whether to ask the store now."""
        if self._failures < FAILURES:  # the usual case, without the lock
            return True
        with self._lock:
            now = time.monotonic()
            due = now >= self._next
            if due:
                self._next = now + SECONDS
            return due

    def failed(self) -> None:
        """A look-up failed."""
        with self._lock:
            self._failures += 1
            self._next = time.monotonic() + SECONDS

    def answered(self) -> None:
        """A look-up had an answer."""
        self._failures = 0
