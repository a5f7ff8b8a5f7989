"""Who gets in: a bounded queue for predictions, apart from the threads that answer for health and
status.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Pool(ThreadPoolExecutor):
    """A thread pool that knows how many of its calls are running or waiting."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.pending = 0
        self._count_lock = threading.Lock()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """As in the base class; counted until the call is over, however it ends."""
        with self._count_lock:
            self.pending += 1
        try:
            future = super().submit(*args, **kwargs)
        except RuntimeError:
            self._done(None)
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Any) -> None:
        with self._count_lock:
            self.pending -= 1


class Admission(grpc.ServerInterceptor):  # type: ignore[misc]
    """Sends Predict to the workers' pool, or refuses it at once where that has no room.

    gRPC looks for a handler in the one thread that receives calls, before anything waits, and lets
    a handler name its own pool by an attribute; without that attribute everything would share the
    server's pool, and only the separation would be lost.

    Args:
        workers: Where predictions run.
        control: Where refusals are sent from.
        limit: Predictions that may run or wait.
        on_refusal: Called for each one refused.
    """

    def __init__(
        self, workers: Pool, control: Pool, *, limit: int, on_refusal: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._limit = limit

        def refuse(request: Any, context: grpc.ServicerContext) -> None:
            on_refusal()
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the queue of {limit} predictions is full; try again later",
            )

        refuse.experimental_thread_pool = control  # type: ignore[attr-defined]
        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)
        self._routed: Any = None

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Called by gRPC for every call."""
        if details.method != PREDICT:
            return continuation(details)
        if self._workers.pending >= self._limit:
            return self._refusal
        if self._routed is None:
            self._routed = self._route(continuation(details))
        return self._routed

    def _route(self, handler: Any) -> Any:
        behaviour = handler.unary_unary

        def predict(request: Any, context: grpc.ServicerContext) -> Any:
            return behaviour(request, context)

        predict.experimental_thread_pool = self._workers  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(
            predict, handler.request_deserializer, handler.response_serializer
        )
