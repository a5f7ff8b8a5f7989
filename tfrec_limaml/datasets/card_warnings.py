"""The warnings of a data card: what to check before task records are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from tfrec_limaml.datasets.date_split import parts_of_rows
from tfrec_limaml.datasets.limits import (
    FEW_TESTED,
    MAX_INVALID,
    MAX_SHARE_OF_TASK,
    MIN_TEST_TASKS,
    MIN_WITH_HISTORY,
    WARN_MISSING,
)
from tfrec_limaml.datasets.typed_columns import WITHOUT_OFFSET, out_of_range
from tfrec_limaml.schema.column_times import future, implausible
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.tasks.folder import PARTS
from tfrec_limaml.wording import counted

#: The dates of the split between which each of its parts lies, in the order of `PARTS`.
_DATES = (
    ("train_start", "validation_start"),
    ("validation_start", "test_start"),
    ("test_start", "test_end"),
)


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
        *([] if schema.split is None else _of_split(schema, frame, card)),
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


def _of_split(schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]) -> Iterator[str]:
    """Parts of the split without rows, and those whose tasks have no rows in earlier parts."""
    keys = [frame[name] for name in schema.task_columns()]
    parts = parts_of_rows(schema, frame)
    earliest = parts.groupby(keys, sort=False, observed=True).min()
    for number, (name, fields) in enumerate(zip(PARTS, _DATES, strict=True)):
        has_rows = (parts == number).groupby(keys, sort=False, observed=True).any()
        tasks = earliest[has_rows]
        known = int((tasks < number).sum())
        if not len(tasks):
            word = "training" if name == "train" else name
            yield f"no row is a {word} row: {_of_dates(schema, card, fields, 'other')}"
        elif (parts < number).any() and known < MIN_WITH_HISTORY * len(tasks):
            yield (
                f"few {name} tasks have a history ({known} of {len(tasks)}), so adaptation can "
                f"hardly have an effect: {_of_dates(schema, card, fields[:1], 'later')}, or use "
                "coarser tasks"
            )


def _of_dates(schema: Schema, card: Mapping[str, Any], fields: Sequence[str], change: str) -> str:
    """What the split says, the data that it is of, and the remedy: dates that are changed so."""
    split = schema.split
    assert split is not None
    if split.per_task is not None:
        shares, most = ", ".join(f"{s:g}" for s in split.per_task), card["samples_per_task"]["max"]
        return (
            f"the shares of the split within tasks are {shares}, and the largest task has "
            f"{counted(most, 'row', spec=',')}; choose other shares, or a split by date"
        )
    named = [name for name in fields if getattr(split, name) is not None]
    dates = " and ".join(f"{name} = {getattr(split, name)}" for name in named)
    options = " and ".join(f"--{name.replace('_', '-')}" for name in named)
    first, last = card["time_span"]
    return (
        f"{dates}, and the rows lie from {first} to {last}; choose {change} dates as `split` in "
        f"the schema, or by {options} of `limaml prepare`"
    )


def _of_tasks(schema: Schema, frame: pd.DataFrame, card: Mapping[str, Any]) -> Iterator[str]:
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
