"""Store look-ups with a time limit; the errors of any store become `StoreError`."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

from limaml_serving.client.steps import LookUp
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.store.base import EmbeddingStore

#: Concurrent look-ups. If a store does not answer, all of them are busy, and further look-ups end
#: at their time limit without a call.
_THREADS = 16


class _Waiting(NamedTuple):
    """A look-up that waits for a thread."""

    future: Future[Any]
    step: LookUp


class StoreReader:
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
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads, self._closed = 0, False
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
        """The future answer, computed in a thread; raises `RuntimeError` after `close`.

        The threads are daemons: at the end of the process, nobody waits for a store that hangs.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the look-ups are closed")
            self._waiting.put(_Waiting(future, step))
            if not self._idle.acquire(blocking=False) and self._threads < _THREADS:
                self._threads += 1
                name = f"limaml-look-up-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            if waiting.future.set_running_or_notify_cancel():
                try:
                    answer = self.look_up_here(waiting.step)
                except BaseException as error:  # noqa: BLE001 - of whoever waits for the answer
                    waiting.future.set_exception(error)
                else:
                    waiting.future.set_result(answer)
            del waiting
            self._idle.release()

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
        with self._lock:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while (waiting := self._waiting.get_nowait()) is not None:
                    waiting.future.cancel()
            for _ in range(self._threads):
                self._waiting.put(None)
