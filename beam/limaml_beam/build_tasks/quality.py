"""Quality of the input: shares of filled values, of unknown keys and of implausible times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limaml_beam.build_tasks.row_checks import (
    FILLED,
    FUTURE,
    IMPLAUSIBLE,
    UNKNOWN_KEY,
    UNREADABLE,
    WITH_OFFSET,
    WITHOUT_OFFSET,
    WITHOUT_WEIGHT,
)
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from tfrec_limaml.datasets.limits import WARN_MISSING
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.wording import day_text

#: Shares above which the data card warns.
WARN_FILLED, WARN_UNKNOWN = WARN_MISSING, 0.1
#: Share of implausible times above which a run is refused.
MAX_IMPLAUSIBLE = 0.5


def counts_under(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counts whose names begin with a prefix, without it, sorted."""
    names = [name for name in sorted(counts) if name.startswith(prefix)]
    return {name.removeprefix(prefix): counts[name] for name in names}


def describe(
    counts: Mapping[str, int], summary: SplitSummary, settings: TaskSettings
) -> dict[str, Any]:
    """The quality of the input, which later runs are compared with.

    Returns:
        ``filled`` and ``unknown_keys``: shares of the rows read, by feature and by table;
        ``implausible_times``, ``future_times`` if there are any, and ``times_without_offset`` if
        others have an offset: also shares;
        ``rows_per_day`` from the first to the last row that is used; and, of a run without
        evaluation splits, ``newest_row_age_days`` at the end of its window and ``rows_by_day``,
        the number of rows of each day (UTC, ISO 8601) that has any.
    """
    read = max(counts.get("rows_read", 0), 1)
    first = [time for time in summary.first if time is not None]
    last = [time for time in summary.last if time is not None]
    shares: dict[str, Any] = {
        "filled": {name: n / read for name, n in counts_under(counts, FILLED).items()},
        "unknown_keys": {name: n / read for name, n in counts_under(counts, UNKNOWN_KEY).items()},
        "implausible_times": counts.get(IMPLAUSIBLE, 0) / read,
    }
    if counts.get(FUTURE):
        shares["future_times"] = counts[FUTURE] / read
    if counts.get(WITH_OFFSET) and counts.get(WITHOUT_OFFSET):
        shares["times_without_offset"] = counts[WITHOUT_OFFSET] / read
    if last:
        days = max((max(last) - min(first)) / DAY_MS, 1.0)
        shares["rows_per_day"] = sum(summary.rows) / days
        if settings.recent_only:
            shares["newest_row_age_days"] = (settings.test_start - max(last)) / DAY_MS
            shares["rows_by_day"] = {day_text(day): rows for day, rows in summary.rows_by_day}
    return shares


def check(
    schema: Schema, counts: Mapping[str, int], example: Callable[[str], str] = lambda reason: ""
) -> None:
    """Raises `LimamlError` for input that is wrong as a whole.

    Most times are implausible, a column has values but no valid one, no row's key is in a table, or
    all rows have weight 0.

    Args:
        schema: The columns.
        counts: Counts by name.
        example: Text with a value that was rejected for a reason; "" without one.
    """
    read = counts.get("rows_read", 0)
    if read and counts.get(WITHOUT_WEIGHT, 0) == read:
        raise LimamlError(
            f"all {read} rows have weight 0 in column {schema.weight!r}: no row would count; is "
            f"this the weight column?"
        )
    implausible = counts.get(IMPLAUSIBLE, 0)
    if implausible > MAX_IMPLAUSIBLE * read:
        raise LimamlError(
            f"{implausible} of {read} rows have a time before 1980 or after 2099, or none that can "
            f"be read in column {schema.timestamp!r}"
            f"{example('invalid_timestamp') or example(IMPLAUSIBLE)}: is `timestamp_unit: "
            f"{schema.timestamp_unit}` right? Convert other forms, such as 31/12/2024, to ISO 8601"
        )
    unreadable, filled = counts_under(counts, UNREADABLE), counts_under(counts, FILLED)
    invalid = sorted(name for name in unreadable if read and filled.get(name, 0) == read)
    if invalid:
        kinds = {f.name: f.dtype for f in schema.features}
        raise LimamlError(
            f"no row has a valid value of {invalid[0]!r} (declared {kinds[invalid[0]]}), but "
            f"{unreadable[invalid[0]]} have an invalid one: correct the column, or its "
            "declaration"
        )
    for table, unknown in counts_under(counts, UNKNOWN_KEY).items():
        if read and unknown == read:
            raise LimamlError(
                f"no value of {schema.tables[table]!r} in the interactions occurs in the table "
                f"{table!r}: do they use the same keys?"
            )


def warnings(quality: Mapping[str, Any], schema: Schema) -> list[str]:
    """The warnings of the data card about the input, one line each."""
    values = {feature.name: feature.default_value for feature in schema.features}
    lines = [
        f"{share:.1%} of the rows have no readable value of the feature {name}: it became "
        f"{values[name]!r}; choose another with fill_value, or leave the rows out with on_invalid: "
        "skip"
        for name, share in quality["filled"].items()
        if share > WARN_FILLED and name in values
    ]
    lines += [
        f"{share:.1%} of the rows have a key that the table {name} lacks"
        for name, share in quality["unknown_keys"].items()
        if share > WARN_UNKNOWN
    ]
    if quality["implausible_times"]:
        lines.append(
            f"{quality['implausible_times']:.2%} of the rows have a time before 1980 or after "
            "2099, or none that can be read"
        )
    if quality.get("future_times"):
        lines.append(
            f"{quality['future_times']:.2%} of the rows lie in the future: correct column "
            f"{schema.timestamp}, or leave these rows out"
        )
    if quality.get("times_without_offset"):
        lines.append(
            f"{quality['times_without_offset']:.2%} of the rows have a time without an offset in "
            f"column {schema.timestamp}, others have one: it is read as UTC; if it is another "
            "zone's time, add the offset"
        )
    return lines
