"""From a store address to a Redis client: plain, TLS, a socket file, or through Sentinel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.secrets import masked

#: Options of an address that are for TLS, and what redis-py calls them.
TLS_OPTIONS = {
    "tls_ca": "ssl_ca_certs",
    "tls_certificate": "ssl_certfile",
    "tls_key": "ssl_keyfile",
}
_SENTINEL = "redis-sentinel"
_SENTINEL_PORT = 26379


def connect(url: str, timeout: float, tls: Mapping[str, str], db: str | None) -> Any:
    """A client; it connects on first use.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``redis-sentinel://``.
        timeout: Seconds to connect, and for one command.
        tls: Files by the names of `TLS_OPTIONS`.
        db: Number of the database, for ``unix://``.

    Raises:
        StoreError: The address cannot be read; passwords are not part of the message.
    """
    # One quick second try: a connection that went stale is replaced; a server that is gone is
    # reported soon.
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    }
    options |= {TLS_OPTIONS[name]: path for name, path in tls.items()}
    try:
        parts = urlsplit(url)
        if tls and parts.scheme != "rediss":
            raise StoreError(f"{sorted(tls)} need a rediss:// address, received {masked(url)!r}")
        if parts.scheme == _SENTINEL:
            return _through_sentinel(parts, options)
        if parts.scheme == "unix":
            url = f"unix://{parts.netloc}{parts.path}?db={int(db or 0)}"
        elif db is not None:
            raise StoreError("the option db is for unix:// addresses; write redis://HOST:PORT/DB")
        return redis.Redis.from_url(url, **options)
    except (ValueError, IndexError, redis.RedisError) as error:
        if isinstance(error, StoreError):
            raise
        # The error's own words may quote a part of the password.
        raise StoreError(
            f"cannot read the store address {masked(url)!r}: write "
            "redis://[user:password@]HOST:PORT/DB, with / ? # @ in a password percent-encoded"
        ) from None


def secret_of(url: str) -> str:
    """The password of an address as it is sent; empty without one."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def _through_sentinel(parts: SplitResult, options: Mapping[str, Any]) -> Any:
    """A client that asks the sentinels for the master before it connects."""
    user, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.lstrip("/").partition("/")
    if not service or not hosts:
        raise StoreError(
            f"the address {masked(parts.geturl())!r} names no service; write "
            "redis-sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
        )
    sentinels = []
    for each in hosts.split(","):
        host, separator, port = each.rpartition(":")
        sentinels.append((host, int(port)) if separator else (each, _SENTINEL_PORT))
    account: dict[str, Any] = {}
    if user:
        name, _, password = user.partition(":")
        account = {"username": unquote(name) or None, "password": unquote(password)}
    watchers = Sentinel(sentinels, sentinel_kwargs=dict(options))
    return watchers.master_for(service, db=int(db or 0), **account, **options)
