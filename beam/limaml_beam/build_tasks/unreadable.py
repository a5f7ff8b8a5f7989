"""Values that exist but cannot be read, and were filled: by day, with an example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec_limaml.arrays import Mask
from tfrec_limaml.schema.arrow_keys import simple_array
from tfrec_limaml.schema.column_times import as_milliseconds, implausible
from tfrec_limaml.schema.column_values import as_feature
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.wording import day_text

#: Of a feature: the numbers of unreadable values by day (UTC, ISO 8601), and one of the values.
BY_DAY, EXAMPLE = "by_day", "example"
#: Characters of an example that are kept.
_KEPT = 80


def is_present(column: pa.ChunkedArray) -> Mask:
    """Whether each value ``[n]`` exists; null, NaN and blank text do not."""
    values = simple_array(column)
    if pa.types.is_floating(values.type):
        present = pc.invert(pc.is_null(values, nan_is_null=True))
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        present = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(values), ""), False)
    else:
        present = pc.is_valid(values)
    return np.asarray(present)


def unreadable_values(
    schema: Schema, raw: pa.Table, used: Mask, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Describes the unreadable values of features of the interactions.

    Args:
        schema: The columns.
        raw: A raw table ``[n]``.
        used: The rows ``[n]`` that are used; others do not count.
        names: The features that have unreadable values.

    Returns:
        By feature, `BY_DAY` and `EXAMPLE`. Implausible times are not counted.
    """
    times, _ = as_milliseconds(raw[schema.timestamp], schema.timestamp_unit)
    used = used & ~implausible(times)
    found = {}
    for feature in (f for f in schema.features if f.name in names):
        column = raw[feature.name]
        bad = as_feature(column, feature)[1] & is_present(column) & used
        if bad.any():
            days, numbers = np.unique(times[bad] // DAY_MS, return_counts=True)
            by_day = {day_text(int(d)): int(n) for d, n in zip(days, numbers, strict=True)}
            value = column.take(pa.array(np.flatnonzero(bad)[:1]))[0].as_py()
            found[feature.name] = {BY_DAY: by_day, EXAMPLE: str(value)[:_KEPT]}
    return found


def add_unreadable(parts: Iterable[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Adds descriptions of `unreadable_values`; the example is the first in alphabetical order."""
    total: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, of_part in part.items():
            entry = total.setdefault(name, {BY_DAY: {}, EXAMPLE: of_part[EXAMPLE]})
            entry[EXAMPLE] = min(entry[EXAMPLE], of_part[EXAMPLE])
            for day, number in of_part[BY_DAY].items():
                entry[BY_DAY][day] = entry[BY_DAY].get(day, 0) + number
    return {
        name: {**total[name], BY_DAY: dict(sorted(total[name][BY_DAY].items()))}
        for name in sorted(total)
    }
