"""Faults of a client's store: counted, and each kind logged once a minute; pauses after some."""

from __future__ import annotations

import logging
import threading
import time

from limaml_serving.client.counters import Counters
from limaml_serving.client.store_pause import StorePause
from tfrec_limaml.errors import VersionMismatchError
from tfrec_limaml.wording import counted

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
        #: Failures since the store last answered; 0 unless the log says that it fails.
        self._failures = 0
        self._pause = StorePause()

    def skips(self) -> bool:
        """Whether to rank without asking the store, because its last look-ups have failed."""
        skips = not self._pause.asks()
        if skips:
            self._counters.add(store_errors=1)
        return skips

    def failed(self, reason: str, error: BaseException | None = None) -> None:
        """The store did not answer, or its answer was unusable.

        Args:
            reason: Text for the log.
            error: The error of the store, if it raised one. The log is limited per type of its
                cause, so that another cause is shown at once.
        """
        self._counters.add(store_errors=1)
        self._pause.failed()
        cause = getattr(error, "__cause__", None) or error
        logged = self._warn(
            f"failed {type(cause).__name__}",
            f"ranking without meta embeddings, the store failed: {reason}",
        )
        with self._lock:
            if logged or self._failures:
                self._failures += 1

    def answered(self) -> None:
        """The store answered: logged if the log says that it fails."""
        self._pause.answered()
        if not self._failures:  # the usual case, without the lock
            return
        with self._lock:
            failures, self._failures = self._failures, 0
        if failures:
            logger.info("the store answers again, after %s", counted(failures, "failed look-up"))

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

    def _warn(self, kind: str, text: str) -> bool:
        """Logs a text, unless one of the same kind was logged a short time ago; whether it did."""
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get(kind, -_LOG_SECONDS) < _LOG_SECONDS:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return False
            self._logged[kind] = now
            suppressed = self._suppressed.pop(kind, 0)
        more = f" ({suppressed} more since the last such line)" if suppressed else ""
        logger.warning("%s%s", text, more)
        return True
