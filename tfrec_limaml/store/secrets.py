"""Keeps user names and passwords of store addresses out of messages and logs."""

from __future__ import annotations

import re

# From the slashes to the last @: a password that was not percent-encoded may hold either.
_ACCOUNT = re.compile(r"(?<=//)\S*@")
_PASSWORD = re.compile(r"(?i)(?<=password=)[^&\s'\"]*")


def masked(address: str) -> str:
    """An address, or a text that quotes one, without user names and passwords."""
    return _PASSWORD.sub("***", _ACCOUNT.sub("***@", address))
