"""Warns if Redis may evict what a store holds."""

from __future__ import annotations

import contextlib
import warnings

from tfrec_limaml.store.redis_catalog import RedisCatalog
from tfrec_limaml.store.redis_connection import node_of
from tfrec_limaml.store.redis_errors import ERRORS

_KEPT = "noeviction"


def warn_of_eviction(catalog: RedisCatalog) -> None:
    """Warns unless the server refuses writes when it is full, or has no limit.

    All policies but that one evict generations and pointers: these have a time to live. A server
    that does not say is assumed to be right: some accounts may not ask.
    """
    memory = {}
    with contextlib.suppress(*ERRORS):
        memory = node_of(catalog.client, catalog.versions_key).info("memory")
    policy = memory.get("maxmemory_policy", _KEPT)
    if not memory.get("maxmemory") or policy == _KEPT:
        return
    erased = (
        "" if policy.startswith("volatile-") else ", and tombstones, so that erased keys return"
    )
    warnings.warn(
        f"Redis has maxmemory-policy {policy}: when it is full, it evicts embeddings, so that "
        f"members are not personalised{erased}; set maxmemory-policy {_KEPT}",
        stacklevel=2,
    )
