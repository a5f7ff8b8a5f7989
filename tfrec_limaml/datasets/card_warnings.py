"""The warnings of a data card: what to check before task records are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from tfrec_limaml.datasets.limits import (
    FEW_TESTED,
    MAX_INVALID,
    MAX_SHARE_OF_TASK,
    MIN_TEST_TASKS,
    WARN_MISSING,
)
from tfrec_limaml.datasets.typed_columns import WITHOUT_OFFSET, out_of_range
from tfrec_limaml.schema.column_times import future, implausible
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.wording import counted


def warnings(schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]) -> list[str]:
    """The warnings, one line each.

    Args:
        schema: The schema, with a split.
        frame: The interactions in the types of the schema.
        card: The data card without warnings.
    """
    return [
        *_of_times(schema, frame, card),
        *_of_invalid_rows(schema, frame),
        *_of_missing_values(schema, frame, card),
        *_of_tasks(schema, frame, card),
    ]


def _of_times(schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]) -> Iterator[str]:
    times = frame[schema.timestamp].to_numpy("int64")
    count = int(implausible(times).sum())
    if count:
        yield f"{counted(count, 'row has', 'rows have', ',')} a time before 1980 or after 2099"
    count = int(future(times).sum())
    if count:
        yield (
            f"{counted(count, 'row lies', 'rows lie', ',')} in the future, the last at "
            f"{card['time_span'][1]}: correct column {schema.timestamp}, or leave these rows out"
        )
    count = card["invalid"].get(schema.timestamp, {}).get(WITHOUT_OFFSET, 0)
    if count:
        yield (
            f"{counted(count, 'row has', 'rows have', ',')} a time without an offset in column "
            f"{schema.timestamp}, the others have one: it is read as UTC; if it is another zone's "
            "time, add the offset"
        )


def _of_invalid_rows(schema: Schema, frame: pd.DataFrame) -> Iterator[str]:
    """Columns for which `limaml prepare` skips rows, if they are too many for it."""
    label = frame[schema.label.name]
    allowed = "other than 0 and 1" if schema.label.kind == "binary" else "outside its range"
    invalid = {
        f"label {schema.label.name} has a value {allowed}, or none,": label.isna()
        | out_of_range(label, schema.label)
    }
    if schema.weight is not None:
        weight = f"weight {schema.weight} has no number of at least 0"
        invalid[weight] = frame[schema.weight].isna()
    for feature in schema.features:
        if feature.table is None and feature.on_invalid == "skip":
            invalid[f"feature {feature.name} (on_invalid: skip) has no value that can be used"] = (
                frame[feature.name].isna()
            )
    for what, mask in invalid.items():
        if mask.mean() > MAX_INVALID:
            yield (
                f"the {what} in {_percent(mask.mean())} of the rows: `limaml prepare` leaves such "
                f"rows out, and stops if they are more than {MAX_INVALID:.0%} "
                "(--max-bad-fraction); correct the column or its declaration"
            )


def _of_missing_values(
    schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]
) -> Iterator[str]:
    for name in card["invalid"]:
        if name in frame and name not in (schema.label.name, schema.weight):
            share = frame[name].isna().mean()
            if share > WARN_MISSING:
                held = f"no value that can be used in {_percent(share)} of the rows"
                yield f"column {name} has {held}"


def _of_tasks(schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]) -> Iterator[str]:
    if card.get("share_of_test_tasks_with_history", 1.0) < 0.2:
        yield (
            "few test tasks have a history, so adaptation can hardly have an effect: choose "
            "earlier split dates or coarser tasks"
        )
    tested = card.get("test_tasks", card["tasks"])
    if tested < MIN_TEST_TASKS:
        yield f"{counted(tested, 'task is', 'tasks are')} tested, and {FEW_TESTED}"
    keys = list(schema.tasks[schema.default_task])
    sizes = frame.groupby(keys, sort=False, observed=True).size()
    if len(sizes) and sizes.max() > MAX_SHARE_OF_TASK * len(frame):
        yield (
            f"one task has {sizes.max() / len(frame):.0%} of the rows, so most of what is measured "
            f"is this task's: is {', '.join(keys)} the right key?"
        )


def _percent(share: float) -> str:
    """A share in whole percent, but 100 % of all only."""
    return f"{share:.0%}" if share == 1 or share < 0.995 else f"{share:.2%}"
