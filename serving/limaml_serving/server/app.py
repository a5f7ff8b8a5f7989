"""The embedded server: TensorFlow Serving's gRPC services, run by this process's TensorFlow."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc

from limaml_serving.errors import ConfigError
from limaml_serving.server.admission import Pool
from limaml_serving.server.config import ModelSettings, as_settings
from limaml_serving.server.front import Front
from limaml_serving.server.health import Health
from limaml_serving.server.limits import Limits
from limaml_serving.server.manager import ModelManager
from limaml_serving.server.metrics import Metrics
from limaml_serving.server.model_service import ModelService
from limaml_serving.server.predict import PredictionService
from limaml_serving.server.reflection import MODEL_SERVICE, PREDICTION_SERVICE, enable_reflection
from limaml_serving.server.tls import ServerTls
from limaml_serving.server_settings import check_settings

logger = logging.getLogger(__name__)

#: Threads for status and metadata, and calls that may wait for them. They are separate, so that
#: they answer while predictions queue up.
_CONTROL_THREADS, _CONTROL_CALLS = 2, 256
#: Requests for a new configuration that may wait; one is handled at a time.
_RELOADS = 8
#: Seconds that a thread may take to end after its call was cancelled.
_JOIN_SECONDS = 5.0
#: The health service for the detection of new versions.
WATCHER_SERVICE = "limaml.VersionWatcher"


class EmbeddedServer:
    """A development and single-node model server that speaks TensorFlow Serving's gRPC protocol.

    Examples:
        >>> with EmbeddedServer({"ranker": "export/ranker"}) as server:   # doctest: +SKIP
        ...     channel = grpc.insecure_channel(server.target)

    Args:
        models: A mapping from names to base directories (one SavedModel per numbered version), or
            the full settings of each model.
        host: Address to listen on; only this machine by default.
        port: Port, or 0 for a free one.
        tls: Files for TLS; None for unencrypted connections.
        workers: Number of predictions that run at once; None for the number of cores.
        max_queue: Predict requests that may wait for a worker; more are refused with
            RESOURCE_EXHAUSTED.
        max_message_bytes: Largest request, and largest sum of a request's inputs once decoded.
        max_response_bytes: Largest response; the default is the limit of gRPC clients.
        max_rows: Largest first axis of an input.
        strict_shapes: Whether to refuse inputs whose shape is not the signature's. TensorFlow
            Serving lets the graph decide.
        allow_reload: Whether clients may change the configuration; by default if only this machine,
            or only clients with a certificate, can call.
        poll_seconds: Time between two checks for new version directories.
        metrics_port: Port for Prometheus metrics; 0 for a free port, ``None`` for no metrics.
        metrics_host: Address for the metrics.

    Raises:
        ConfigError: A setting is invalid. `start` raises it too if an address is taken.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path] | Sequence[ModelSettings],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ServerTls | None = None,
        workers: int | None = None,
        max_queue: int = 128,
        max_message_bytes: int = 64 * 1024 * 1024,
        max_response_bytes: int = 4 * 1024 * 1024,
        max_rows: int = 100_000,
        strict_shapes: bool = False,
        allow_reload: bool | None = None,
        poll_seconds: float = 1.0,
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        check_settings({"port": port, "metrics_port": metrics_port, "poll_seconds": poll_seconds})
        self.metrics = Metrics()
        self.manager = ModelManager(
            as_settings(models),
            poll_seconds=poll_seconds,
            on_change=lambda: self.metrics.set_available(self.manager.available()),
            on_fault=self.metrics.count_fault,
        )
        self.metrics_target: str | None = None
        self._host, self._port, self._tls = host, port, tls
        self._metrics_address = None if metrics_port is None else (metrics_host, metrics_port)
        protected = _is_loopback(host) or (tls is not None and tls.client_ca is not None)
        self._may_reload = protected if allow_reload is None else allow_reload
        self._limits = _limits(max_rows, max_message_bytes, max_response_bytes, strict_shapes)
        self._make_pools(workers, max_queue)
        self.metrics.watch_last_check(lambda: self.manager.last_check)
        self._health = self._health_of_services()
        self._front = Front(max_message_bytes)
        self._used = False

    def _make_pools(self, workers: int | None, max_queue: int) -> None:
        check_settings({"workers": workers, "max_queue": max_queue})
        workers = workers or os.cpu_count() or 2
        self._workers = Pool(workers, "limaml-serve-predict", workers + max_queue)
        self._control = Pool(_CONTROL_THREADS, "limaml-serve-control", _CONTROL_CALLS)
        self._reloads = Pool(1, "limaml-serve-reload", _RELOADS)
        self._pools = (self._workers, self._control, self._reloads)
        self.metrics.watch_pending(lambda: self._workers.pending)

    @property
    def port(self) -> int:
        """The port listened on (after `start`)."""
        return self._port

    @property
    def target(self) -> str:
        """``HOST:PORT`` for a gRPC channel (after `start`)."""
        return _address(self._host, self._port)

    def start(self) -> EmbeddedServer:
        """Loads the existing models and starts to serve.

        Raises:
            ConfigError: The address is taken, or the server was started or stopped before.
        """
        if self._used:
            raise ConfigError(
                "this EmbeddedServer was started or stopped before, and an object serves once: "
                "create another EmbeddedServer"
            )
        address = _address(self._host, self._port)
        credentials = None if self._tls is None else self._tls.credentials()
        self._used = True
        try:
            self._port = self._front.open(address, credentials, self._add_services)
        except RuntimeError as error:
            tls = "" if credentials is None else " Or do the TLS key and certificate not match?"
            raise ConfigError(
                f"cannot listen on {address}: is the port taken, or the host not this machine's? "
                f"Choose another --port or --host.{tls}"
            ) from error
        if self._tls is not None:
            for warning in self._tls.warnings(dt.datetime.now(dt.UTC)):
                logger.warning("%s", warning)
        try:
            self._serve_metrics()
            for pool in self._pools:
                pool.start()
            self.manager.start()
            self._front.start()
        except BaseException:
            self.stop(0.0)
            raise
        return self

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Stops the server and frees the models.

        Reports NOT_SERVING, accepts no new request, and waits at most `grace_seconds` for complete
        requests.
        """
        self._used = self._health.stopping = True
        self._front.stop(grace_seconds)
        self.manager.stop()
        self.metrics.stop()
        for pool in self._pools:
            pool.close(_JOIN_SECONDS)

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _serve_metrics(self) -> None:
        if self._metrics_address is None:
            return
        host, port = self._metrics_address
        try:
            self.metrics_target = _address(host, self.metrics.serve(host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot serve metrics on {_address(host, port)}: {error}; choose another "
                "--metrics-port or --metrics-host"
            ) from error

    def _add_services(self, server: grpc.aio.Server, front: Front) -> None:
        PredictionService(
            self.manager,
            self.metrics,
            self._limits,
            workers=self._workers,
            control=self._control,
        ).add_to(server, front)
        ModelService(
            self.manager,
            control=self._control,
            reloads=self._reloads,
            may_reload=self._may_reload,
        ).add_to(server, front)
        self._health.add_to(server, front)
        enable_reflection(server)

    def _health_of_services(self) -> Health:
        """The health service, by TensorFlow Serving's short service names and by full names."""
        names = ("", PREDICTION_SERVICE, MODEL_SERVICE)
        short = [name.rpartition(".")[2] for name in names[1:]]
        services = dict.fromkeys((*names, *short), self._is_ready)
        return Health({**services, WATCHER_SERVICE: self.manager.is_watching})

    def _is_ready(self) -> bool:
        """True once every configured model has an available version."""
        available = self.manager.available()
        return bool(available) and all(available.values())


def _limits(
    max_rows: int, max_message_bytes: int, max_response_bytes: int, strict_shapes: bool
) -> Limits:
    sizes = {"max_message_bytes": max_message_bytes, "max_response_bytes": max_response_bytes}
    check_settings({"max_rows": max_rows, **sizes})
    return Limits(
        rows=max_rows,
        decoded_bytes=max_message_bytes,
        response_bytes=max_response_bytes,
        strict_shapes=strict_shapes,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str, port: int) -> str:
    """``HOST:PORT``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
