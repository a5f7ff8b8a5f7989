"""Removes user names and passwords of store addresses from messages and logs."""

from __future__ import annotations

import re

# From the slashes to the last @: a password that is not percent-encoded may contain both.
_ACCOUNT = re.compile(r"(?<=//)\S*@")
_PASSWORD = re.compile(r"(?i)(?<=password=)[^&\s'\"]*")


def masked(address: str) -> str:
    """An address, or a text with addresses, without user names and passwords."""
    return _PASSWORD.sub("***", _ACCOUNT.sub("***@", address))
