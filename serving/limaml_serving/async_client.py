"""The asyncio ranker client: the same protocol over grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from limaml_serving import wire
from limaml_serving.channel import Tls, channel_options
from limaml_serving.columns import Candidates
from limaml_serving.counters import Counters
from limaml_serving.ranking import LookUp, OnVersionMismatch, Predict, Ranked, RankingProtocol, Request, Resolve, Signature, Steps
from limaml_serving.version_lock import KnownVersions, VersionLock
from tfrec_limaml.errors import StoreError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store.base import EmbeddingStore


class AsyncRanker:
    """`limaml_serving.client.Ranker` for asyncio: the same arguments, results, errors and counters.

    Make it inside the running event loop. The store's look-up runs in a worker thread and may take half of a call's
    time; then it counts as a failed store, and the candidates are scored without embeddings.
    """

    def __init__(
        self,
        target: str,
        store: EmbeddingStore,
        *,
        manifest: Manifest | str | Path,
        model_name: str = "ranker",
        version: int | None = None,
        version_label: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        on_version_mismatch: OnVersionMismatch = "unadapted",
        signature: Signature = "rank",
        refresh_seconds: float = 5.0,
        tls: Tls | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._store = store
        self._protocol = RankingProtocol(
            known=KnownVersions(manifest),
            model_name=model_name,
            lock=VersionLock(version, version_label, refresh_seconds),
            timeout=timeout,
            on_version_mismatch=on_version_mismatch,
            signature=signature,
        )
        settings = channel_options(retries, tls, options)
        self._channel = (
            grpc.aio.insecure_channel(target, settings) if tls is None else grpc.aio.secure_channel(target, tls.credentials(), settings)
        )
        self._predict = self._channel.unary_unary(wire.PREDICT_METHOD, None, wire.PredictResponse.FromString)
        self._metadata = self._channel.unary_unary(
            wire.METADATA_METHOD, wire.GetModelMetadataRequest.SerializeToString, wire.GetModelMetadataResponse.FromString
        )

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._protocol.counters

    async def rank(
        self, member: Mapping[str, Any], candidates: Candidates, *, top: int | None = None, timeout: float | None = None
    ) -> Ranked:
        """See `limaml_serving.client.Ranker.rank`."""
        return (await self._drive(self._protocol.rank([(member, candidates)], top, timeout)))[0]

    async def rank_many(self, requests: Sequence[Request], *, top: int | None = None, timeout: float | None = None) -> list[Ranked]:
        """See `limaml_serving.client.Ranker.rank_many`."""
        return await self._drive(self._protocol.rank(requests, top, timeout))

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _drive(self, steps: Steps) -> list[Ranked]:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except (grpc.RpcError, StoreError, TimeoutError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: list[Ranked] = done.value
            return result

    async def _perform(self, step: Resolve | LookUp | Predict) -> Any:
        if isinstance(step, LookUp):
            look_up = asyncio.to_thread(self._store.get_many, step.keys, step.model_version)
            return await asyncio.wait_for(look_up, step.timeout)
        call = self._predict if isinstance(step, Predict) else self._metadata
        return await call(step.request, timeout=step.timeout)
