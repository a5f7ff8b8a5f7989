"""The server's TLS files: credentials for gRPC, and warnings about the dates of certificates."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import grpc
from cryptography import x509

from limaml_serving.errors import ConfigError

#: A certificate that expires within this time is warned about.
_SOON = dt.timedelta(days=14)
_TIME = "%Y-%m-%d %H:%M UTC"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerTls:
    """Files (PEM) for TLS.

    Attributes:
        private_key: The server's private key.
        certificate_chain: The server's certificate chain.
        client_ca: Certificate authority of clients; if given, clients must show a certificate
            (mutual TLS).
    """

    private_key: Path
    certificate_chain: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Reads the files; raises `ConfigError` if one cannot be read."""
        try:
            pair = (Path(self.private_key).read_bytes(), Path(self.certificate_chain).read_bytes())
            roots = None if self.client_ca is None else Path(self.client_ca).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read a TLS file: {error}") from error
        return grpc.ssl_server_credentials(
            [pair], root_certificates=roots, require_client_auth=roots is not None
        )

    def warnings(self, now: dt.datetime) -> list[str]:
        """A line for each certificate that is not valid `now`, or not for 14 days more."""
        found = []
        for path in (self.certificate_chain, self.client_ca):
            for certificate in [] if path is None else _certificates(Path(path)):
                problem = _problem(certificate, now)
                if problem:
                    found.append(f"the certificate in {path} {problem}")
        return found


def _certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a file; none if one is unreadable: gRPC decides whether it is used."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        return []


def _problem(certificate: x509.Certificate, now: dt.datetime) -> str:
    """What is wrong with the dates of a certificate; empty if nothing is."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < first:
        return f"is not valid before {first:{_TIME}}: replace it, or correct this machine's clock"
    verb = "expired" if now > last else "expires"
    return f"{verb} on {last:{_TIME}}: renew it and start again" if now > last - _SOON else ""
