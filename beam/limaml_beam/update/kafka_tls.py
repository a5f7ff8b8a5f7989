"""Whether a Kafka broker that does not answer expects TLS: the client library does not say so."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

_SECONDS = 2.0
_PORT = 9092


def needs_tls(servers: str, client: Mapping[str, str]) -> str:
    """The first of the servers that expects TLS while the client does not use it; else empty.

    Args:
        servers: ``HOST:PORT``, several with commas between them.
        client: Settings of the client library.
    """
    if "ssl" in client.get("security.protocol", "").lower():
        return ""
    return next((each for each in servers.split(",") if _answers_tls(each.strip())), "")


def _answers_tls(server: str) -> bool:
    """Whether a server answers the first message of TLS, also if only to refuse it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        address = urlsplit(f"//{server.rpartition('://')[2]}")
        place = (address.hostname or "", address.port or _PORT)
        with socket.create_connection(place, timeout=_SECONDS) as connection:
            context.wrap_socket(connection, server_hostname=address.hostname).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, ValueError):
        return False
    return True
