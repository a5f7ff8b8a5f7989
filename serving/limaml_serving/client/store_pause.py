"""When a store that fails is asked again, so that not every request waits for it in vain."""

from __future__ import annotations

import threading
import time

#: Failures in a row after which the store is asked only by one look-up per `_SECONDS`.
_FAILURES = 5
_SECONDS = 1.0


class StorePause:
    """Decides whether to ask the store: always, unless its last look-ups have failed.

    A look-up in a store that hangs takes half of the time of a request. After `_FAILURES` in a row,
    look-ups are skipped, except for one per `_SECONDS`, until one has an answer. Safe to use from
    several threads.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def asks(self) -> bool:
        """Whether to ask the store now."""
        if self._failures < _FAILURES:  # the usual case, without the lock
            return True
        with self._lock:
            now = time.monotonic()
            due = now >= self._next
            if due:
                self._next = now + _SECONDS
            return due

    def failed(self) -> None:
        """A look-up failed."""
        with self._lock:
            self._failures += 1
            self._next = time.monotonic() + _SECONDS

    def answered(self) -> None:
        """A look-up had an answer."""
        if self._failures:  # seldom, so that the usual case takes no lock
            with self._lock:
                self._failures = 0
