"""Guesses the contents of columns from their names."""

from __future__ import annotations

import re

_TIME = re.compile(
    r"time|date|(^|_)ts($|_)|moment|created|(^|_)at$|epoch|(^|_)unix($|_)|datum|zeit"
)
_ID = re.compile(r"((^|[\W_])(?i:(u|uu|gu)?id)|(?<=[a-z])I[dD])$")
#: Things whose IDs are often named by one word, such as ``itemid``.
_THING_ID = re.compile(
    "(user|member|customer|client|account|person|visitor|session|item|product|article|movie|film|"
    "video|song|track|book|news|post|content|page|query|doc|campaign|author|brand|shop|store)id$",
    re.IGNORECASE,
)


def is_time(name: str) -> bool:
    """Whether a column is named like a time: ``created_at``, but not ``candidate_id``."""
    return _TIME.search(name.lower()) is not None and not is_id(name)


def is_id(name: str) -> bool:
    """Whether a column is named like an identifier.

    For example ``item_id``, ``Item ID``, ``itemId``, ``ITEM_ID`` and ``itemid``, but not ``paid``.
    """
    return _ID.search(name) is not None or _THING_ID.search(name) is not None


def without_id(name: str) -> str:
    """Name of the thing that a column of IDs identifies; it may name a folder.

    For example ``user`` for ``user_id``, ``userId`` and ``userid``.
    """
    rest = name[:-2] if _THING_ID.search(name) else _ID.sub("", name)
    return re.sub(r"[^\w -]+", "_", rest).strip("_ ") or re.sub(r"\W+", "_", name)
