"""The embedded server: gRPC services of TensorFlow Serving on the TensorFlow runtime of this
process.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from limaml_serving.server.admission import Admission, Pool
from limaml_serving.server.config import ConfigError, ModelSettings, as_settings
from limaml_serving.server.manager import ModelManager
from limaml_serving.server.metrics import Metrics
from limaml_serving.server.model_service import ModelService
from limaml_serving.server.parsing import Parsing
from limaml_serving.server.predict import PredictionService
from limaml_serving.server.reflection import MODEL_SERVICE, PREDICTION_SERVICE, enable_reflection

#: Threads for everything but Predict: health and status must answer while predictions queue up.
_CONTROL_THREADS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tls:
    """Files (PEM) for TLS.

    Attributes:
        key: The server's private key.
        certificate: Its certificate chain.
        client_ca: Certificate authority of clients; where given, clients must show a certificate
            (mutual TLS).
    """

    key: Path
    certificate: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Reads the files; raises `ConfigError` where one cannot be read."""
        try:
            pair = (Path(self.key).read_bytes(), Path(self.certificate).read_bytes())
            roots = None if self.client_ca is None else Path(self.client_ca).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read a TLS file: {error}") from error
        return grpc.ssl_server_credentials(
            [pair], root_certificates=roots, require_client_auth=roots is not None
        )


class EmbeddedServer:
    """A development and single-node model server that speaks TensorFlow Serving's gRPC protocol.

    Example:
        with EmbeddedServer({"ranker": "export/ranker"}) as server:
            channel = grpc.insecure_channel(server.target)

    Args:
        models: Name to base directory (one SavedModel per numbered version), or full settings.
        host: Address to listen on; only this machine by default.
        port: Port, or 0 for a free one.
        tls: Serve TLS with these files.
        workers: Predictions run at once; default: the number of cores.
        max_queue: Predict requests that may wait for a worker; more are refused with
            RESOURCE_EXHAUSTED.
        max_message_bytes: Largest request, and largest sum of a request's inputs once decoded.
        max_rows: Largest first axis of an input.
        poll_seconds: Time between two looks for new version directories.
        metrics_port: Serve Prometheus metrics there (0: a free port; ``None``: do not).
        metrics_host: Address for the metrics.

    Raises:
        ConfigError: Settings that cannot be served, or an address that is taken.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path] | Sequence[ModelSettings],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
        workers: int | None = None,
        max_queue: int = 128,
        max_message_bytes: int = 64 * 1024 * 1024,
        max_rows: int = 100_000,
        poll_seconds: float = 1.0,
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        self.metrics = Metrics()
        self.manager = ModelManager(
            as_settings(models), poll_seconds=poll_seconds, on_change=self._publish_health
        )
        self.metrics_target: str | None = None
        self._host, self._port, self._tls = host, port, tls
        self._metrics_address = None if metrics_port is None else (metrics_host, metrics_port)
        workers = workers or os.cpu_count() or 2
        self._control = Pool(_CONTROL_THREADS, "limaml-serve-control")
        self._workers = Pool(workers, "limaml-serve-predict")
        self.metrics.watch_pending(lambda: self._workers.pending)
        self._health = health.HealthServicer()
        self._server = grpc.server(
            self._control,
            interceptors=[
                Admission(
                    self._workers,
                    self._control,
                    limit=workers + max_queue,
                    on_refusal=self.metrics.refuse,
                ),
                Parsing(),
            ],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction = PredictionService(
            self.manager, self.metrics, max_rows=max_rows, max_bytes=max_message_bytes
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            prediction, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.manager), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        enable_reflection(self._server)

    @property
    def port(self) -> int:
        """The port listened on (after `start`)."""
        return self._port

    @property
    def target(self) -> str:
        """``HOST:PORT`` for a gRPC channel (after `start`)."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def start(self) -> EmbeddedServer:
        """Loads the models that are there and begins to serve."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{host}:{self._port}"
        try:
            if self._tls is None:
                self._port = self._server.add_insecure_port(address)
            else:
                self._port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address}: is the port taken? Choose another with --port"
            ) from error
        if self._metrics_address is not None:
            metrics_host, port = self._metrics_address
            try:
                self.metrics_target = f"{metrics_host}:{self.metrics.serve(metrics_host, port)}"
            except OSError as error:
                raise ConfigError(
                    f"cannot serve metrics on {metrics_host}:{port}: {error}; choose another "
                    "--metrics-port"
                ) from error
        self.manager.start()
        self._server.start()
        return self

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Says NOT_SERVING, takes no new request, lets the running ones end (at most
        `grace_seconds`), frees the models.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait()
        self.manager.stop()
        self.metrics.stop()
        self._workers.shutdown()
        self._control.shutdown()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _publish_health(self) -> None:
        """SERVING once every configured model has an available version."""
        available = self.manager.available()
        self.metrics.set_available(available)
        ready = bool(available) and all(available.values())
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if ready
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", PREDICTION_SERVICE, MODEL_SERVICE):
            self._health.set(service, status)
