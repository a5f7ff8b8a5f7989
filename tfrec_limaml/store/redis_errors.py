"""Errors of the Redis client as `StoreError`, with the remedy where the cause is known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import redis
from redis.sentinel import MasterNotFoundError

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.redis_connection import PASSWORD, SENTINEL, SENTINEL_PASSWORD
from tfrec_limaml.store.secrets import masked

#: Errors of a client.
ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
#: What a server says of a command that it does not have.
UNKNOWN_COMMAND = "unknown command"
# The client quotes a failed command of a pipeline: task keys and vectors.
_QUOTED_COMMAND = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
# The client shows each sentinel as all settings of its connection, and then the error.
_SENTINEL_ERROR = re.compile(r"[(,]host=([^,]*),port=(\d+).*?> - (?:\w+:)?(\w+)", re.DOTALL)
# Commands that every server of data has, and no sentinel: those that a store sends first.
_OF_DATA = re.compile(rf"{UNKNOWN_COMMAND}\W+(EXEC|GET|HVALS|SMEMBERS|WATCH)\b")
_NO_REPLICA = "NOREPLICAS"
_REFUSED_COMMAND = re.compile(r"permissions? to run the '([\w|-]+)'")
_OF_TRANSACTIONS = ("watch", "unwatch", "multi", "exec", "discard")
_UNTRUSTED = re.compile("certificate verify failed: (self.signed|unable to get .*issuer)")
# What a client without TLS sees of a server that expects it.
_CLOSED = ("reset by peer", "closed by server")
_OF_A_CLUSTER = (redis.exceptions.AskError, redis.exceptions.ClusterDownError)


@contextlib.contextmanager
def readable(url: str, secrets: Sequence[str]) -> Iterator[None]:
    """A context that converts a client's errors to `StoreError`.

    The message has the server's address and, if the cause is known, the remedy. It has neither
    passwords nor the data of a command.
    """
    try:
        yield
    except ERRORS as error:
        text = f"{type(error).__name__}: {text_of(error)}"
        for secret in secrets:
            text = text.replace(secret, "***")
        remedy = _remedy(error, url.partition(":")[0])
        text += f"; {remedy}" if remedy else ""
        raise StoreError(
            f"the Redis store at {masked(url)} refused or did not answer: {masked(text)}"
        ) from error


def text_of(error: Exception) -> str:
    """The message of an error, without the data of a command and the settings of sentinels."""
    text = _QUOTED_COMMAND.sub("", str(error)).strip()
    if not isinstance(error, MasterNotFoundError):
        return text
    reasons = [f"{host}:{port}: {kind}" for host, port, kind in _SENTINEL_ERROR.findall(text)]
    summary = text.partition(" : ")[0]
    return f"{summary} ({', '.join(reasons)})" if reasons else summary


def _remedy(error: Exception, scheme: str) -> str:
    """What the user can do; empty if the message says all that is known."""
    if isinstance(error, MasterNotFoundError):
        return _remedy_of_sentinels(str(error))
    if isinstance(error, redis.AuthenticationError):
        return (
            "give user and password in the address, or :PASSWORD alone, before HOST and @, or the "
            f"password in the environment variable {PASSWORD}"
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return _remedy_of_rights(str(error))
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return (
            "raise maxmemory, or free a generation: `limaml store prune STORE --model-version N "
            "--keep 1 --grace-seconds 0`"
        )
    if _NO_REPLICA in str(error):
        return "try again when replication works (the server has min-replicas-to-write)"
    return _remedy_of_address(error, scheme)


def _remedy_of_sentinels(text: str) -> str:
    kinds = {kind for _, _, kind in _SENTINEL_ERROR.findall(text)}
    if "AuthenticationError" in kinds:
        return (
            "give the password of the sentinels in the environment variable "
            f"{SENTINEL_PASSWORD}, or as sentinel_password of the address"
        )
    if kinds:
        return (
            "check HOST:PORT of the sentinels, that they are running, and the name of the service"
        )
    return (
        "check the name of the service (`redis-cli -p 26379 SENTINEL MASTERS` lists them); if it "
        "is right, its master is down: try again after the failover"
    )


def _remedy_of_rights(text: str) -> str:
    """The right that the account lacks: a command, or else the keys."""
    command = _REFUSED_COMMAND.search(text)
    if command is None:
        right, rest = "~PREFIX:*", ", with the store's prefix (limaml by default)"
    else:
        right, rest = f"+{command[1]}", ""
        if command[1] in _OF_TRANSACTIONS:
            right = "+@transaction"
    return f"allow it: `ACL SETUSER NAME {right}`{rest}; docs/store.md lists those of each command"


def _remedy_of_address(error: Exception, scheme: str) -> str:
    """The form of address that the server needs, if it is another one."""
    text = str(error)
    if _UNTRUSTED.search(text):
        return "name the PEM file of the server's authority in the option tls_ca of the address"
    if scheme in ("redis", "redis+cluster") and any(closed in text for closed in _CLOSED):
        return f"if the server expects TLS, write {scheme.replace('redis', 'rediss')}://"
    if scheme in SENTINEL:
        if UNKNOWN_COMMAND in text and "SENTINEL" in text:
            return (
                "the address names a server of data in place of a sentinel: give HOST:PORT of the "
                "sentinels (port 26379 by default)"
            )
    elif scheme in ("redis", "rediss", "unix"):
        if _OF_DATA.search(text):
            return (
                "if the server is a sentinel, write redis-sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
            )
        if isinstance(error, _OF_A_CLUSTER):
            return "the server is a node of a cluster: write redis+cluster://HOST:PORT,HOST:PORT"
        if isinstance(error, redis.exceptions.ReadOnlyError):
            return "give the address of the master, or redis-sentinel://HOST:PORT/SERVICE/DB"
    return ""
