"""Store look-ups with a time limit; the errors of any store become `StoreError`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from limaml_serving.client.steps import LookUp
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store.base import EmbeddingStore

#: Concurrent look-ups. If a store does not answer, all of them are busy, and further look-ups end
#: at their time limit without a call.
_THREADS = 16


class LookUps:
    """Looks embeddings up in a store.

    Args:
        store: Any store; one with a true attribute `local` is assumed not to block, and is called
            in the same thread.

    Raises:
        LimamlError: `store` is not a store.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        if not callable(getattr(store, "get_many", None)):
            raise LimamlError(
                f"store must have a method get_many, received {store!r}: open one with "
                "tfrec_limaml.open_store(ADDRESS)"
            )
        self._store = store
        self._local = bool(getattr(store, "local", False))
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def look_up(self, step: LookUp) -> Any:
        """The store's answer.

        Raises:
            StoreError: An error in the store.
            TimeoutError: No answer within the step's time limit.
        """
        if self._local:
            return self.look_up_here(step)
        future = self.submit(step)
        try:
            return future.result(step.timeout)
        except TimeoutError:
            future.cancel()
            raise

    def submit(self, step: LookUp) -> Future[Any]:
        """The future answer, computed in a thread."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, "limaml-look-up")
            submit: Callable[..., Future[Any]] = self._threads.submit
        return submit(self.look_up_here, step)

    def look_up_here(self, step: LookUp) -> Any:
        """The store's answer, computed in this thread; errors are `StoreError`."""
        try:
            return self._store.get_many(step.keys, step.model_version)
        except (StoreError, TimeoutError):
            raise
        except Exception as error:
            raise StoreError(
                f"the store raised {type(error).__name__}: {error} (not a StoreError)"
            ) from error

    def close(self) -> None:
        """Accepts no more look-ups; does not wait for blocked ones."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
