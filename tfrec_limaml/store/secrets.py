"""Removes user names and passwords of store addresses from messages and logs."""

from __future__ import annotations

import re

from tfrec_limaml.errors import StoreError

#: The options of a Redis address.
REDIS_OPTIONS = (
    *("dtype", "prefix", "ttl", "lease", "timeout", "db"),
    *("tls_ca", "tls_certificate", "tls_key", "sentinel_user", "sentinel_password"),
)
REDIS_SCHEMES = (
    *("redis", "rediss", "unix", "redis-sentinel", "rediss-sentinel"),
    *("redis+cluster", "rediss+cluster"),
)

_ADDRESS = re.compile(r"(?P<scheme>[\w+.-]*):(?P<slashes>/*)(?P<rest>\S+)")
# A password that is not percent-encoded may contain / ? and @, but hardly an option's name.
_FIRST_OPTION = re.compile(rf"\?(?:{'|'.join(REDIS_OPTIONS)})=|$")
_PASSWORD = re.compile(r"(?i)(?<=password=)[^&\s'\"]*")


def masked(address: str) -> str:
    """An address, or a text with addresses, without user names and passwords.

    Everything up to the last ``@`` before the options goes. The address of a folder has neither,
    and stays as it is.
    """
    return _PASSWORD.sub("***", _ADDRESS.sub(_without_account, address))


def _without_account(found: re.Match[str]) -> str:
    scheme, slashes, rest = found["scheme"], found["slashes"], found["rest"]
    options = _FIRST_OPTION.search(rest)
    end = len(rest) if options is None else options.start()
    _, separator, place = rest[:end].rpartition("@")
    if not separator or scheme == "lmdb":
        return found[0]
    # Without slashes, the word may be a user name.
    start = f"{scheme}:{slashes}" if slashes or scheme in REDIS_SCHEMES else ""
    return f"{start}***@{place}{rest[end:]}"


def check_characters(address: str) -> None:
    """Raises `StoreError` for white space or ``#`` in an address of a server; shows no part of it.

    In a text, nothing tells where a password with one of these ends.
    """
    found = None if address.startswith("lmdb:") else re.search(r"[\s#]", address)
    if found:
        name, code = ("a #", "%23") if found[0] == "#" else ("a space", "%20")
        raise StoreError(
            f"the store address has {name} (it is not shown, since it may hold a password): "
            f"percent-encode it, {code}, or remove it"
        )
