"""Parts of texts that people read: counts, times, quoted values, and the name that was meant."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable

_SHOWN = 40  # characters of a value that are shown


def counted(number: float, one: str, many: str | None = None, spec: str = "") -> str:
    """``1 row``, ``2 rows``, ``0 rows``.

    Args:
        number: The count.
        one: The words after 1.
        many: The words after other numbers; `one` with an s by default.
        spec: Format specification of the number, such as ``,`` for separated thousands.
    """
    words = one if number == 1 else f"{one}s" if many is None else many
    return f"{number:{spec}} {words}"


def utc_text(milliseconds: float, timespec: str = "seconds") -> str:
    """A time since 1970 as ISO 8601 text in UTC."""
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec=timespec)


def day_text(day: int) -> str:
    """A day, counted from 1970, as ISO 8601 text."""
    return (dt.date(1970, 1, 1) + dt.timedelta(day)).isoformat()


def duration(seconds: float) -> str:
    """``0.52 s``, ``3.4 minutes``, ``2.6 hours``, ``659.4 days``: above two of the next unit."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds > 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


def shown(value: object) -> str:
    """A value in quotes; only the beginning of a long one."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def closest(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or a list of the candidates."""
    names = list(candidates)
    matches = difflib.get_close_matches(name, names, n=1) or [
        c for c in names if c.lower() == name.lower()
    ]
    return f"; did you mean {matches[0]!r}?" if matches else f"; there are {sorted(names)}"
