"""Store addresses: one string on a command line names a backend, a place and its options."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.base import EmbeddingStore

_LMDB_OPTIONS = ("dtype",)
_REDIS_OPTIONS = ("dtype", "prefix", "ttl", "lease", "timeout")


def open_store(address: str) -> EmbeddingStore:
    """Opens the store at an address.

    Args:
        address: ``lmdb:FOLDER[?dtype=float16]`` or
            ``redis://[user:password@]HOST:PORT/DB[?prefix=limaml&dtype=float32&ttl=SECONDS&lease=SECONDS&timeout=SECONDS]``
            (also ``rediss://`` and ``unix://``). ``dtype`` is that of generations written from now
            on; reading follows what each generation was written with.

    Raises:
        StoreError: The address names no known backend or an unknown option.
    """
    scheme, separator, rest = address.partition(":")
    if separator and scheme == "lmdb":
        folder, _, query = rest.partition("?")
        if not folder.lstrip("/"):
            raise StoreError(
                f"store address {address!r} names no folder; write lmdb:FOLDER, for example "
                "lmdb:/var/lib/limaml/store"
            )
        from tfrec_limaml.store.lmdb_store import LmdbStore

        folder = folder[2:] if folder.startswith("//") else folder
        return LmdbStore(unquote(folder), **_options(address, query, _LMDB_OPTIONS))
    if separator and scheme in ("redis", "rediss", "unix"):
        from tfrec_limaml.store.redis_store import RedisStore

        parts = urlsplit(address)
        return RedisStore.from_options(
            parts._replace(query="").geturl(), _options(address, parts.query, _REDIS_OPTIONS)
        )
    raise StoreError(
        f"store address {address!r} names no known backend; write lmdb:FOLDER or "
        "redis://HOST:PORT/DB"
    )


def _options(address: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise StoreError(
            f"store address {address!r} has unknown options {unknown}; known ones are {list(known)}"
        )
    return options
