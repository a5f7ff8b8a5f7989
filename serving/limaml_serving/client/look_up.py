"""Store look-ups that end in time, and faults of any store as `StoreError`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from limaml_serving.client.steps import LookUp
from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.base import EmbeddingStore

#: Look-ups under way at once. While a store hangs they are all taken, and further ones end unasked
#: at their time limit.
_THREADS = 16


class LookUps:
    """Looks embeddings up in a store.

    Args:
        store: Any store; one with a true attribute `local` is trusted not to hang, and is asked
            without a change of threads.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._local = bool(getattr(store, "local", False))
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def ask(self, step: LookUp) -> Any:
        """The store's answer.

        Raises:
            StoreError: Whatever went wrong in the store.
            TimeoutError: No answer within the step's time.
        """
        if self._local:
            return self.now(step)
        future = self.submit(step)
        try:
            return future.result(step.timeout)
        except TimeoutError:
            future.cancel()
            raise

    def submit(self, step: LookUp) -> Future[Any]:
        """The answer to come, from a thread."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, "limaml-look-up")
            submit: Callable[..., Future[Any]] = self._threads.submit
        return submit(self.now, step)

    def now(self, step: LookUp) -> Any:
        """The store's answer, in this thread; faults are `StoreError`."""
        try:
            return self._store.get_many(step.keys, step.model_version)
        except (StoreError, TimeoutError):
            raise
        except Exception as error:
            raise StoreError(
                f"the store raised {type(error).__name__}: {error} (not a StoreError)"
            ) from error

    def close(self) -> None:
        """Takes no more look-ups; does not wait for those that hang."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
