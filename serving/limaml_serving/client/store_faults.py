"""Faults of a client's store: counted, and logged once a minute."""

from __future__ import annotations

import logging
import threading
import time

from limaml_serving.client.counters import Counters
from tfrec_limaml.errors import VersionMismatchError

logger = logging.getLogger(__name__)

_LOG_SECONDS = 60.0


class StoreFaults:
    """Counts and reports why requests are scored without meta embeddings.

    Args:
        counters: The client's counters.
        raise_on_mismatch: Whether a mismatch of versions is an error of the request.
    """

    def __init__(self, counters: Counters, raise_on_mismatch: bool) -> None:
        self._counters = counters
        self._raise_on_mismatch = raise_on_mismatch
        self._logged: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self._lock = threading.Lock()

    def failed(self, reason: str) -> None:
        """The store did not answer, or answered nonsense."""
        self._counters.add(store_errors=1)
        self._warn("failed", f"ranking without meta embeddings, the store failed: {reason}")

    def damaged(self, count: int, version: int) -> None:
        """Some stored embeddings are damaged; nothing happens if there are none."""
        if count:
            self._counters.add(damaged=count)
            self._warn(
                "damaged",
                f"{count} stored meta embeddings of version {version} are damaged; their members "
                "are scored without embeddings: publish again, or roll back",
            )

    def mismatch(self, message: str) -> None:
        """The store's embeddings do not belong to the model; may raise `VersionMismatchError`."""
        self._counters.add(version_mismatches=1)
        if self._raise_on_mismatch:
            raise VersionMismatchError(message)
        self._warn("mismatch", f"ranking without meta embeddings: {message}")

    def _warn(self, kind: str, text: str) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get(kind, -_LOG_SECONDS) < _LOG_SECONDS:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return
            self._logged[kind] = now
            suppressed = self._suppressed.pop(kind, 0)
        more = f" ({suppressed} more since the last such line)" if suppressed else ""
        logger.warning("%s%s", text, more)
