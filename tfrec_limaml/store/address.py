"""Store addresses: one string names a backend, a location and its options."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, unquote

from tfrec_limaml.errors import StoreError
from tfrec_limaml.store.base import EmbeddingStore
from tfrec_limaml.store.secrets import REDIS_OPTIONS, REDIS_SCHEMES, check_characters, masked

_LMDB_OPTIONS = ("dtype",)


def open_store(address: str | os.PathLike[str]) -> EmbeddingStore:
    """Opens the store at an address.

    Examples:
        >>> with open_store("lmdb:stores/members") as store:              # doctest: +SKIP
        ...     vectors, found = store.get_many(["17", "42"], model_version=3)

    Args:
        address: A string: ``lmdb:FOLDER``, ``redis://[user:password@]HOST:PORT/DB``, ``rediss://``
            (TLS), ``unix://PATH``, ``redis-sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`` or
            ``redis+cluster://HOST:PORT,HOST:PORT`` (with TLS ``rediss-sentinel`` and
            ``rediss+cluster``), with options after ``?`` (docs/store.md lists them). The option
            ``dtype`` applies to new generations; existing generations keep their dtype. A
            `pathlib.Path` is the folder of an LMDB store.

    Returns:
        The store. It opens files and connections on first use.

    Raises:
        StoreError: The address has an unknown backend, an unknown option or, for a server, a
            space or ``#``, or the backend's package is not installed.
    """
    if isinstance(address, os.PathLike):
        from tfrec_limaml.store.lmdb_store import LmdbStore

        return LmdbStore(os.fspath(address))
    check_characters(address)
    scheme, separator, location = address.partition(":")
    if separator and scheme == "lmdb":
        folder, _, query = location.partition("?")
        if not folder.lstrip("/"):
            raise StoreError(
                f"store address {_place(address)!r} names no folder; write lmdb:FOLDER, for "
                "example lmdb:/var/lib/limaml/store"
            )
        from tfrec_limaml.store.lmdb_store import LmdbStore

        folder = folder[2:] if folder.startswith("//") else folder
        return LmdbStore(unquote(folder), **_options(address, query, _LMDB_OPTIONS))
    if separator and scheme in REDIS_SCHEMES:
        try:
            from tfrec_limaml.store.redis_store import RedisStore
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise StoreError(
                "a Redis store needs the package redis: pip install 'tfrec-limaml[redis]'"
            ) from error

        url, _, query = address.partition("?")
        return RedisStore.from_options(url, _options(address, query, REDIS_OPTIONS))
    raise StoreError(
        f"store address {_place(address)!r} has an unknown backend; write lmdb:FOLDER or "
        "redis://HOST:PORT/DB (with TLS rediss://; also unix://, redis-sentinel:// and "
        "redis+cluster://)"
    )


def _options(address: str, query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        # With @, they may be a part of a password that holds a question mark.
        is_account = "@" in query
        names = "" if is_account else f" {unknown}"
        remedy = "; percent-encode ? and @ of a password" if is_account else ""
        raise StoreError(
            f"store address {_place(address)!r} has unknown options{names}; known ones are "
            f"{list(allowed)}{remedy}"
        )
    return options


def _place(address: str) -> str:
    """An address for a message: masked, and without options, whose values may be secrets."""
    return masked(address).partition("?")[0]
