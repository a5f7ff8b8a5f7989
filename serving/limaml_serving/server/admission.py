"""Threads for a server's blocking work, with a bounded queue.

A call takes a thread only once its body has arrived: open calls of clients cost no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from limaml_serving.server.errors import StatusError


@dataclasses.dataclass(kw_only=True, slots=True)
class Call:
    """One request on its way through the server.

    Attributes:
        content: The request's bytes; dropped once its client is gone.
        deadline: On the clock of `time.monotonic`; infinite without a deadline.
        gone: True once no client waits for the answer.
    """

    content: bytes
    deadline: float
    gone: bool = False

    def seconds_left(self) -> float:
        """Time until the deadline; raises DEADLINE_EXCEEDED or CANCELLED if none is left."""
        if self.gone:
            raise StatusError(grpc.StatusCode.CANCELLED, "the client is gone")
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        return seconds


Work = Callable[[Call], bytes]


class Pool:
    """Threads for calls of one kind.

    Args:
        threads: Calls that run at once.
        name: Name of the threads.
        limit: Calls that may run or wait; one more is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, threads: int, name: str, limit: int) -> None:
        #: Calls that run or wait. Changed by the event loop alone.
        self.pending = 0
        self._limit = limit
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def is_full(self) -> bool:
        """True if one more call is refused."""
        return self.pending >= self._limit

    async def run(self, work: Work, call: Call) -> bytes:
        """The result of ``work(call)``, computed in a thread.

        A call that is cancelled while it waits is never run. It keeps its place in the queue until
        its turn, so that the queue stays bounded, but not its content.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if the queue is full; or an error of `work`.
        """
        if self.is_full:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the queue of {self._limit} calls is full; try again later",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self.pending += 1
        self._queue.put((work, call, loop, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            call.gone = True
            call.content = b""
            raise

    def close(self, timeout: float) -> None:
        """Waits for the threads to end, at most `timeout` seconds each.

        Threads that still run do not keep the process alive.
        """
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._queue.put(None)
        for thread in started:
            thread.join(timeout)

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            work, call, loop, answer = item
            result: Any = None
            error: BaseException | None = None
            try:
                call.seconds_left()
                result = work(call)
            except BaseException as caught:  # noqa: BLE001 - raised where it is awaited
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(self._finish, answer, result, error)
            del item, call, answer, result, error

    def _finish(
        self, answer: asyncio.Future[bytes], result: bytes, error: BaseException | None
    ) -> None:
        self.pending -= 1
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
