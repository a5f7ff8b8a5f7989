"""Connects to Redis at a store address: plain, TLS, a socket file, Sentinel, or a Cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.secrets import masked

#: TLS options of an address, and their names in redis-py.
TLS_OPTIONS = {
    "tls_ca": "ssl_ca_certs",
    "tls_certificate": "ssl_certfile",
    "tls_key": "ssl_keyfile",
}
#: Environment variables for passwords: those in an address are visible in lists of processes.
PASSWORD, SENTINEL_PASSWORD = "REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD"
SENTINEL = ("redis-sentinel", "rediss-sentinel")
CLUSTER = ("redis+cluster", "rediss+cluster")
_SENTINEL_PORT, _PORT = 26379, 6379
_SENTINEL_FORM = "HOST:PORT,HOST:PORT/SERVICE/DB"
#: What follows the scheme of an address, and the parts that are numbers.
_FORMS = {
    **dict.fromkeys(SENTINEL, (_SENTINEL_FORM, "PORT and DB")),
    **dict.fromkeys(CLUSTER, ("HOST:PORT,HOST:PORT", "PORT")),
    "unix": ("PATH?db=DB", "DB"),
}
_PLAIN_FORM = ("HOST:PORT/DB", "PORT and DB")
_DIGITS = re.compile("[0-9]+")


def connect(
    url: str,
    timeout: float,
    tls: Mapping[str, str],
    db: str | None,
    sentinel: Mapping[str, str] | None = None,
) -> Any:
    """A client; it connects on first use.

    Args:
        url: ``redis://``, ``unix://``, ``redis-sentinel://`` or ``redis+cluster://``; with TLS
            ``rediss://``, ``rediss-sentinel://`` or ``rediss+cluster://``.
        timeout: Seconds to connect, and for one command.
        tls: Files by name in `TLS_OPTIONS`.
        db: Number of the database, for ``unix://``.
        sentinel: ``username`` and ``password`` of the sentinels, if needed.

    Raises:
        StoreError: The address is invalid; the message contains no passwords.
    """
    # One quick retry replaces a stale connection, and a missing server is still reported soon.
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    }
    options |= {TLS_OPTIONS[name]: path for name, path in tls.items()}
    try:
        parts = urlsplit(url)
        _check_options(url, parts.scheme, tls, db, sentinel)
        return _client(url, parts, options, db, sentinel or {})
    except StoreError:
        raise
    except (ValueError, IndexError, redis.RedisError):
        # The error's message may contain a part of the password.
        scheme = url.partition(":")[0]
        form, numbers = _FORMS.get(scheme, _PLAIN_FORM)
        raise StoreError(
            f"cannot read the store address {masked(url)!r}: write "
            f"{scheme}://[user:password@]{form}, with a number for {numbers} and with / ? # @ in a "
            "password percent-encoded"
        ) from None


def _check_options(
    url: str,
    scheme: str,
    tls: Mapping[str, str],
    db: str | None,
    sentinel: Mapping[str, str] | None,
) -> None:
    """Raises `StoreError` for options that an address of this kind does not have."""
    if tls and not scheme.startswith("rediss"):
        raise StoreError(f"{sorted(tls)} need a rediss:// address, received {masked(url)!r}")
    for name, path in tls.items():
        if not os.path.isfile(path):
            raise StoreError(f"{name}: no file {path!r}; name a PEM file")
    if db is not None and scheme != "unix":
        raise StoreError("the option db is for unix:// addresses; write redis://HOST:PORT/DB")
    if sentinel and scheme not in SENTINEL:
        raise StoreError(
            "sentinel_user and sentinel_password are for redis-sentinel:// addresses, received "
            f"{masked(url)!r}"
        )


def _client(
    url: str,
    parts: SplitResult,
    options: Mapping[str, Any],
    db: str | None,
    sentinel: Mapping[str, str],
) -> Any:
    """The client for an address of this kind."""
    encrypted = parts.scheme.startswith("rediss")
    if parts.scheme in SENTINEL:
        return _through_sentinel(
            parts, {**options, "ssl": True} if encrypted else options, sentinel
        )
    if parts.scheme in CLUSTER:
        return _cluster(parts, {**options, "ssl": encrypted})
    if parts.scheme == "unix":
        url = f"unix://{parts.netloc}{parts.path}?db={_database(db)}"
    else:
        # The client itself opens database 0 for a name, and others for several numbers.
        _database(parts.path.removeprefix("/"))
    return redis.Redis.from_url(url, **{**options, "password": secret_of(url) or None})


def node_of(client: Any, key: str) -> Any:
    """The client of the server that holds a key: of a node in a cluster, else the client itself."""
    if not isinstance(client, _OnFirstUse):
        return client
    return client.get_redis_connection(client.get_node_from_key(key))


def sentinels_of(client: Any) -> tuple[str, list[Any]]:
    """The name of a client's service, and the clients of its sentinels; none without Sentinel."""
    pool = None if isinstance(client, _OnFirstUse) else client.connection_pool
    if not isinstance(pool, SentinelConnectionPool):
        return "", []
    return pool.service_name, pool.sentinel_manager.sentinels


def secret_of(url: str) -> str:
    """The decoded password of an address, or that of the environment; empty without one."""
    try:
        password = unquote(urlsplit(url).password or "")
    except ValueError:
        password = ""
    return password or os.environ.get(PASSWORD, "")


def _through_sentinel(
    parts: SplitResult, options: Mapping[str, Any], sentinel: Mapping[str, str]
) -> Any:
    """A client that gets the master's address from the sentinels before connecting.

    User and password of the store address are for the master.
    """
    user, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.lstrip("/").partition("/")
    if not service or not hosts:
        raise StoreError(
            f"the address {masked(parts.geturl())!r} names no service; write "
            f"{parts.scheme}://{_SENTINEL_FORM}"
        )
    account = _account(user, parts)
    sentinels = _hosts(hosts, _SENTINEL_PORT)
    sentinel_client = Sentinel(sentinels, sentinel_kwargs={**options, **sentinel})
    return sentinel_client.master_for(service, db=_database(database), **account, **options)


def _cluster(parts: SplitResult, options: Mapping[str, Any]) -> Any:
    """A client of the cluster of the given nodes."""
    user, _, hosts = parts.netloc.rpartition("@")
    if not hosts or parts.path.strip("/"):
        raise StoreError(
            f"the address {masked(parts.geturl())!r} must name nodes and no database (a cluster "
            "has only one); write redis+cluster://HOST:PORT,HOST:PORT"
        )
    nodes = [ClusterNode(host, port) for host, port in _hosts(hosts, _PORT)]
    account = _account(user, parts)
    return _OnFirstUse(lambda: RedisCluster(startup_nodes=nodes, **account, **options))


def _database(text: str | None) -> int:
    """The number of a database, 0 by default; raises `ValueError` for other texts."""
    if text and not _DIGITS.fullmatch(text):
        raise ValueError("a database is a number")  # the text may be a part of a password
    return int(text or 0)


def _account(user: str, parts: SplitResult) -> dict[str, Any]:
    """User and password of an address; without a password, that of the environment."""
    password = secret_of(parts.geturl())
    if not user and not password:
        return {}
    return {"username": unquote(user.partition(":")[0]) or None, "password": password}


def _hosts(text: str, default_port: int) -> list[tuple[str, int]]:
    """Hosts and ports of ``HOST:PORT,HOST``."""
    addresses = []
    for address in text.split(","):
        host, separator, port = address.rpartition(":")
        addresses.append((host, int(port)) if separator else (address, default_port))
    return addresses


class _OnFirstUse:
    """A client that is created on first use, since creating one connects it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._client = make, None

    def __getattr__(self, name: str) -> Any:
        if self._client is None:
            self._client = self._make()
        return getattr(self._client, name)

    def close(self) -> None:
        """Closes the client, if there is one; the next use creates another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
