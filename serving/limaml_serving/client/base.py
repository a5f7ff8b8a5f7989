"""The common base of the blocking and the asyncio client: construction and counters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limaml_serving.client import wire
from limaml_serving.client.channel import Tls, channel_options
from limaml_serving.client.counters import Counters
from limaml_serving.client.protocol import OnVersionMismatch, RankingProtocol, Signature
from limaml_serving.client.store_reader import StoreReader
from limaml_serving.client.versions import KnownVersions, VersionLock
from limaml_serving.errors import ServingError
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store.base import EmbeddingStore
from tfrec_limaml.wording import counted


class RankerBase:
    """A channel to a model server, a store, and the protocol between them.

    The arguments are those of `limaml_serving.Ranker`.
    """

    #: The module that opens channels: `grpc` or `grpc.aio`.
    _grpc: Any

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
        if not isinstance(target, str) or not target:
            raise LimamlError(f"target must be HOST:PORT, received {target!r}")
        self._target = target
        self._closed = False
        self._store_reader = StoreReader(store)
        self._protocol = RankingProtocol(
            known=KnownVersions(manifest),
            model_name=model_name,
            lock=VersionLock(version, version_label, refresh_seconds),
            timeout=timeout,
            on_version_mismatch=on_version_mismatch,
            signature=signature,
        )
        self._open_channel(tls, channel_options(retries, tls, options))

    def _open_channel(self, tls: Tls | None, settings: list[tuple[str, Any]]) -> None:
        self._tls = tls
        self._channel = (
            self._grpc.insecure_channel(self._target, settings)
            if tls is None
            else self._grpc.secure_channel(self._target, tls.credentials(), settings)
        )
        self._predict = self._channel.unary_unary(
            wire.PREDICT_METHOD, None, wire.PredictResponse.FromString
        )
        self._metadata = self._channel.unary_unary(
            wire.METADATA_METHOD,
            wire.GetModelMetadataRequest.SerializeToString,
            wire.GetModelMetadataResponse.FromString,
        )

    @property
    def counters(self) -> Counters:
        """Counts of requests, candidates and faults since the client was made."""
        return self._protocol.counters

    def _closed_error(self) -> ServingError:
        return ServingError(f"the client of {self._target} is closed", "CANCELLED")

    def _no_server_error(self, timeout: float) -> ServingError:
        tls = (
            "does it expect TLS?"
            if self._tls is None
            else "do these TLS files match those of the server?"
        )
        message = (
            f"no server answers at {self._target} after {counted(timeout, 'second', spec='g')}: is "
            f"it running, is this its port, and {tls}"
        )
        return ServingError(message, "UNAVAILABLE")
