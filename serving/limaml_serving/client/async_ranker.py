"""The asyncio ranker client: the same protocol over grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from limaml_serving.client.base import RankerBase
from limaml_serving.client.channel import Tls
from limaml_serving.client.columns import Candidates
from limaml_serving.client.steps import (
    LookUp,
    Predict,
    Ranked,
    Request,
    Resolve,
    Steps,
    seconds_of,
)
from limaml_serving.errors import ServingError
from tfrec_limaml.errors import LimamlError, StoreError


class AsyncRanker(RankerBase):
    """`limaml_serving.Ranker` for asyncio: the same arguments, results, errors and counters.

    Create it in a coroutine, and use it in the same event loop.

    Examples:
        >>> ranker = AsyncRanker("127.0.0.1:8500", store, manifest="export")  # doctest: +SKIP
        >>> ranked = await ranker.rank(member, candidates, top=2)             # doctest: +SKIP
        >>> await ranker.close()                                              # doctest: +SKIP

    Raises:
        LimamlError: No event loop is running; or as `limaml_serving.Ranker`.
    """

    _grpc = grpc.aio

    def _open_channel(self, tls: Tls | None, settings: list[tuple[str, Any]]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise LimamlError(
                "an AsyncRanker belongs to the event loop in which it is created, and none is "
                "running: create it in a coroutine, for example when the application starts"
            ) from error
        super()._open_channel(tls, settings)

    async def rank(
        self,
        member: Mapping[str, Any],
        candidates: Candidates,
        *,
        top: int | None = None,
        timeout: float | None = None,
    ) -> Ranked:
        """See `limaml_serving.Ranker.rank`."""
        return (await self._drive(self._protocol.rank([(member, candidates)], top, timeout)))[0]

    async def rank_many(
        self, requests: Sequence[Request], *, top: int | None = None, timeout: float | None = None
    ) -> list[Ranked]:
        """See `limaml_serving.Ranker.rank_many`."""
        return await self._drive(self._protocol.rank(requests, top, timeout))

    async def wait_for_server(self, timeout: float) -> None:
        """See `limaml_serving.Ranker.wait_for_server`."""
        if self._closed:
            raise self._closed_error()
        seconds = seconds_of(timeout)
        try:
            await asyncio.wait_for(self._channel.channel_ready(), seconds)
        except TimeoutError as error:
            raise self._no_server_error(seconds) from error

    async def close(self) -> None:
        """See `limaml_serving.Ranker.close`."""
        self._closed = True
        self._store_reader.close()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _drive(self, steps: Steps) -> list[Ranked]:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except (grpc.RpcError, StoreError, TimeoutError, ServingError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: list[Ranked] = done.value
            return result

    async def _perform(self, step: Resolve | LookUp | Predict) -> Any:
        try:
            if isinstance(step, LookUp):
                look_up = asyncio.wrap_future(self._store_reader.submit(step))
                return await asyncio.wait_for(look_up, step.timeout)
            call = self._predict if isinstance(step, Predict) else self._metadata
            return await call(step.request, timeout=step.timeout)
        except (grpc.aio.UsageError, RuntimeError, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise self._closed_error() from error
