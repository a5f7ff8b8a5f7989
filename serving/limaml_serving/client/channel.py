"""TLS, retries and options of a channel, for the blocking and the asyncio client."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from tfrec_limaml.errors import LimamlError

#: Codes after which a retry is safe.
RETRIED_CODES = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
#: Of several servers, one that fails almost all calls gets none for a while, because a server that
#: is frozen keeps its connections. It is tried again after 10 seconds, later after up to a minute.
_OUTLIER_DETECTION = {
    "interval": "5s",
    "baseEjectionTime": "10s",
    "maxEjectionTime": "60s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {"threshold": 90, "minimumHosts": 2, "requestVolume": 3},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tls:
    """Files for TLS and, with a key and a certificate, mutual TLS (all PEM).

    Attributes:
        root_certificates: Authorities to trust; ``None`` for gRPC's default list.
        private_key: The client's key, for mutual TLS.
        certificate_chain: The client's certificate, for mutual TLS.
        server_name: Name to check the server's certificate against, if it differs from the
            target's.

    Raises:
        LimamlError: A private key without a certificate, or a certificate without its key.
    """

    root_certificates: str | Path | None = None
    private_key: str | Path | None = None
    certificate_chain: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise LimamlError(
                "mutual TLS needs private_key and certificate_chain together, received "
                f"{self.private_key!r} and {self.certificate_chain!r}"
            )

    def credentials(self) -> Any:
        """gRPC channel credentials; raises `LimamlError` naming a file that cannot be read."""
        return grpc.ssl_channel_credentials(
            _read(self.root_certificates), _read(self.private_key), _read(self.certificate_chain)
        )


def channel_options(
    retries: int, tls: Tls | None, extra: Sequence[tuple[str, Any]] = ()
) -> list[tuple[str, Any]]:
    """Options of a channel.

    Retries are those of gRPC: exponential back-off with jitter from 20 ms to 500 ms, always inside
    the call's deadline, and throttled (when most calls fail, gRPC stops retrying until calls
    succeed again, so that clients never overload a restarting server).

    Args:
        retries: Further attempts after the first; 0 to 4 (gRPC allows five attempts).
        tls: TLS settings.
        extra: Options that override the ones made here.

    Raises:
        LimamlError: `retries` is out of range, or `tls` is not a `Tls`.
    """
    if not isinstance(retries, int) or not 0 <= retries <= 4:
        raise LimamlError(
            "retries must be a whole number from 0 to 4 (gRPC makes at most five attempts), "
            f"received {retries!r}"
        )
    if tls is not None and not isinstance(tls, Tls):
        raise LimamlError(f"tls must be a limaml_serving.Tls, received {tls!r}")
    options: dict[str, Any] = {
        "grpc.service_config": json.dumps(_service_config(retries)),
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": -1,
    }
    if tls is not None and tls.server_name is not None:
        options["grpc.ssl_target_name_override"] = tls.server_name
    return list({**options, **dict(extra)}.items())


def _service_config(retries: int) -> dict[str, Any]:
    balancing: list[dict[str, Any]] = [{"round_robin": {}}]
    without_frozen = {**_OUTLIER_DETECTION, "childPolicy": balancing}
    # gRPC uses the first policy that it knows.
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"outlier_detection_experimental": without_frozen}, *balancing]
    }
    if retries:
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
        config["methodConfig"] = [
            {
                "name": [{"service": "tensorflow.serving.PredictionService"}],
                "retryPolicy": {
                    "maxAttempts": retries + 1,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": list(RETRIED_CODES),
                },
            }
        ]
    return config


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LimamlError(f"cannot read the TLS file {path}: {error.strerror}") from error
