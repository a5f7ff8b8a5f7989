"""Waits until a replica has the writes of an erasure: Redis replicates after it has answered.

If a master fails before a replica has them, the replica that takes its place still has the erased
keys, and no tombstones.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any

import redis

from tfrec_limaml.store.redis_catalog import RedisCatalog
from tfrec_limaml.store.redis_connection import node_of, sentinels_of
from tfrec_limaml.store.redis_errors import UNKNOWN_COMMAND, text_of

#: Seconds to wait for a replica.
WAIT_SECONDS = 10.0
_LONGEST_WAIT_MS = 1000
_MARKER_MS = 60_000
_PERMISSIONS = (
    "the account may not use INFO and WAIT, which show whether a replica has the erasure: allow "
    "them (ACL SETUSER ... +info +wait, in a cluster +cluster|nodes too), and repeat the command"
)
_NOT_OFFERED = (
    "the server does not offer INFO and WAIT, which show whether a replica has the erasure "
    "({}): remove their rename-command from redis.conf, and repeat the command, or run `limaml "
    "erase --verify` after each failover"
)


class Confirmation:
    """Whether a replica of the server that holds a store has all writes since the creation.

    Args:
        catalog: The store's catalog.
    """

    def __init__(self, catalog: RedisCatalog) -> None:
        self._catalog = catalog
        self._history = ""
        with contextlib.suppress(redis.ResponseError):  # `problem` reports it, after the erasure
            self._history = self._info().get("master_replid", "")

    def problem(self) -> str:
        """Waits for a replica; what is missing, or nothing.

        Nothing is missing on a server that has no replicas, and should have none.
        """
        try:
            info = self._info()
            if info.get("master_replid", "") != self._history:
                return "another server has become the master during the erasure; repeat the command"
            if not self._should_have_replicas(info):
                return ""
            if self._replicas():
                return ""
        except redis.ResponseError as error:
            return _refusal(error)
        return (
            f"no replica of Redis has confirmed the erasure within {WAIT_SECONDS:g} s; repeat the "
            "command when replication works"
        )

    def _node(self) -> Any:
        """The server that holds the store; in a cluster, all keys of a store are on one."""
        return node_of(self._catalog.client, self._catalog.erased_key)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = self._node().info("replication")
        return info

    def _should_have_replicas(self, info: dict[str, Any]) -> bool:
        """Whether replicas are connected, were so within the last hour, or others know some.

        Redis keeps its backlog for an hour after the last replica has gone (`repl-backlog-ttl`).
        """
        if info.get("connected_slaves", True) or info.get("repl_backlog_active"):
            return True
        client = self._catalog.client
        service, sentinels = sentinels_of(client)
        for sentinel in sentinels:
            with contextlib.suppress(redis.RedisError, OSError, KeyError):
                if sentinel.sentinel_masters()[service]["num-slaves"]:
                    return True
        return self._has_replicas_in_cluster()

    def _has_replicas_in_cluster(self) -> bool:
        node = self._node()
        if node is self._catalog.client:
            return False
        nodes = node.cluster("nodes").values()
        own = {each["node_id"] for each in nodes if "myself" in each["flags"]}
        return any(each["master_id"] in own for each in nodes)

    def _replicas(self) -> int:
        """The number of replicas that have this connection's last write, within the time limit."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            node = self._node()
            answered_ms = 500 * node.connection_pool.connection_kwargs["socket_timeout"]
            left_ms = 1000 * (deadline - time.monotonic())
            wait_ms = max(1, round(min(_LONGEST_WAIT_MS, answered_ms, left_ms)))
            # WAIT refers to the writes of its own connection: one that follows all others.
            pipeline = node.pipeline(transaction=False)
            pipeline.set(self._catalog.marker_key, secrets.token_hex(8), px=_MARKER_MS)
            pipeline.wait(1, wait_ms)
            _, replicas = pipeline.execute()
            if replicas or time.monotonic() >= deadline:
                return int(replicas)


def _refusal(error: redis.ResponseError) -> str:
    """What a server's refusal of INFO, WAIT or the marker means for the confirmation."""
    if isinstance(error, redis.exceptions.NoPermissionError):
        return _PERMISSIONS
    text = text_of(error)
    if UNKNOWN_COMMAND in text:
        return _NOT_OFFERED.format(text.partition(",")[0])
    return (
        "the server refused to show whether a replica has the erasure "
        f"({type(error).__name__}: {text}); repeat the command"
    )
