"""The gRPC front: an event loop that reads calls, passes complete ones to threads, and answers.

A gRPC server with a thread per call gives a call its thread before the body has arrived, so that a
few half-sent requests would block all clients. Here a call that is not complete is a coroutine. It
must be complete within `READ_SECONDS`, and connections that do not answer a ping are closed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from limaml_serving.server.admission import Call
from limaml_serving.server.errors import StatusError, describe

logger = logging.getLogger(__name__)

#: A call whose request is not complete after this time is ended.
READ_SECONDS = 30.0
#: Calls that one connection may have open.
_STREAMS_PER_CONNECTION = 1024
#: Largest part of a request that a client may send at once. gRPC's 16 KiB would divide a request of
#: a hundred candidates into three parts.
_FRAME_BYTES = 2**20
#: Least time between two log lines about unexpected errors.
_LOG_SECONDS = 60.0
#: How long a stop waits for answers to be sent once the time for running calls is over.
_LAST_SECONDS = 5.0

Answer = Callable[[Call], Awaitable[bytes]]


class Front:
    """A `grpc.aio` server in a thread of its own.

    Args:
        max_message_bytes: Largest request.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
            ("grpc.http2.max_frame_size", _FRAME_BYTES),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run_loop, name="limaml-serve-front", daemon=True
        )
        self._server: Any = None
        self._started = False
        self._stopping = False
        self._active = 0
        self._idle: asyncio.Event | None = None
        self._logged = -math.inf

    def open(
        self,
        address: str,
        credentials: grpc.ServerCredentials | None,
        add_services: Callable[[Any, Front], None],
    ) -> int:
        """Binds `address` and returns the port; raises RuntimeError if it is taken."""
        self._thread.start()
        try:
            return int(self._call(self._open(address, credentials, add_services)))
        except BaseException:
            self.stop(0.0)
            raise

    def start(self) -> None:
        """Begins to answer."""
        self._call(self._start())

    def stop(self, grace_seconds: float) -> None:
        """Accepts no new call, and ends once all complete requests are answered.

        It ends after `grace_seconds` at the latest, and does not wait for half-sent requests and
        open streams. An answer counts as sent once the operating system has its last bytes: gRPC
        then closes the connection, and a client that reads slowly can lose them.
        """
        if self._loop.is_closed():
            return
        if self._thread.ident is None:
            self._loop.close()
            return
        if self._server is not None:
            self._call(self._stop(grace_seconds))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def unary(self, answer: Answer) -> Any:
        """A handler for one request and one response, both bytes.

        It is registered as a stream of requests, which looks the same on the wire: gRPC then calls
        it before the body has arrived, so that reading has a time limit.
        """

        async def handle(_: Any, context: Any) -> bytes:
            call = await self._read(context)
            return await self._answered(answer, call, context)

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream(self, answers: Callable[[Call, Any], Awaitable[None]]) -> Any:
        """A handler for one request and many responses: `answers` writes to the context."""

        async def handle(_: Any, context: Any) -> None:
            call = await self._read(context)
            try:
                await answers(call, context)
            except StatusError as error:
                await context.abort(error.code, error.message)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _read(self, context: Any) -> Call:
        left = context.time_remaining()
        try:
            async with asyncio.timeout(READ_SECONDS):
                content = await context.read()
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the request is not complete after {READ_SECONDS:g} seconds",
            )
        if not isinstance(content, bytes):
            await context.abort(grpc.StatusCode.INTERNAL, "the call carries no request")
        return Call(content=content, deadline=math.inf if left is None else time.monotonic() + left)

    async def _answered(self, answer: Answer, call: Call, context: Any) -> bytes:
        if self._stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        self._active += 1
        context.add_done_callback(self._on_done)  # once the answer is sent, or the client gone
        try:
            return await answer(call)
        except StatusError as error:
            failure = error
        except DecodeError:
            size = len(call.content)
            failure = StatusError(
                grpc.StatusCode.INTERNAL,
                f"the {size} bytes received are not a valid request of this method",
            )
        except MemoryError:
            failure = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")
        except Exception as error:  # noqa: BLE001 - answered and logged
            self._log(error)
            failure = StatusError(
                grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {describe(error)}"
            )
        await context.abort(failure.code, failure.message)
        raise AssertionError("abort raises")

    def _on_done(self, _: Any) -> None:
        self._active -= 1
        if self._active == 0 and self._idle is not None:
            self._idle.set()

    def _log(self, error: Exception) -> None:
        """Logs an unexpected error with its traceback, at most one per minute.

        The limit keeps clients from filling the log.
        """
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            logger.error("a request failed unexpectedly: %s", describe(error), exc_info=error)

    async def _open(
        self,
        address: str,
        credentials: grpc.ServerCredentials | None,
        add_services: Callable[[Any, Front], None],
    ) -> int:
        self._server = grpc.aio.server(options=self._options)
        add_services(self._server, self)
        if credentials is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, credentials))

    async def _start(self) -> None:
        self._started = True
        await self._server.start()

    async def _stop(self, grace_seconds: float) -> None:
        # During its grace period gRPC accepts no new connection but still accepts calls on open
        # ones; `_answered` refuses those whose request is not complete.
        self._stopping = True
        if not self._started:
            await self._start()  # gRPC gives the port of a server back only if it was started
        closing = asyncio.ensure_future(self._server.stop(grace_seconds + _LAST_SECONDS))
        if self._active:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._idle.wait()
            except TimeoutError:
                logger.warning("%d calls are cancelled", self._active)
        await self._server.stop(None)
        await closing

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_on_loop_error)
        self._loop.run_forever()


def add_service(server: Any, name: str, methods: Mapping[str, Any]) -> None:
    """Adds a service with these handlers; its other methods answer UNIMPLEMENTED."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(methods)),))


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Two event loops with gRPC in one process wake each other needlessly.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
