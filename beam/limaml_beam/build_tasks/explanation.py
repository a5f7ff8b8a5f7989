"""Explains why rows were rejected: the column, a value and the remedy, for errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain, islice
from typing import Any

from limaml_beam.build_tasks.row_checks import ERROR, IMPLAUSIBLE, MALFORMED
from limaml_beam.io import files
from tfrec_limaml.schema.schema import Label, Schema
from tfrec_limaml.tasks.folder import DEAD_LETTERS
from tfrec_limaml.wording import shown

#: Number of dead letters that are searched for a value.
_LETTERS = 10_000
#: Number of reasons that are explained, the most frequent ones first.
_REASONS = 3


class Explanation:
    """Reads the first dead letters of a run, once it is asked.

    Args:
        schema: The columns.
        directory: Folder of the run's output.
    """

    def __init__(self, schema: Schema, directory: str) -> None:
        self._schema, self._directory = schema, directory

    def of(self, invalid: Mapping[str, int]) -> str:
        """Text to append to an error about the number of invalid rows by reason; it may be ""."""
        names = sorted(invalid, key=lambda name: -invalid[name])[:_REASONS]
        texts = [(name, self._text(name.removeprefix(ERROR))) for name in names]
        return "".join(f"; {name.removeprefix(ERROR)}: {text}" for name, text in texts if text)

    def example(self, reason: str) -> str:
        """``, such as 'VALUE'``: a value that was rejected for the reason; "" without one."""
        value = _value(self._letters.get(reason, {}), _column(self._schema, reason))
        return "" if value is None else f", such as {shown(value)}"

    def _text(self, reason: str) -> str:
        letter, column = self._letters.get(reason, {}), _column(self._schema, reason)
        if reason.startswith(MALFORMED) and letter:
            return f"the first is line {letter['line']} of {letter['file']}"
        remedy = _remedy(self._schema, reason)
        if column is None or not remedy:
            return ""
        value = _value(letter, column)
        has_column = column in letter.get("row", ())
        held = f" holds {shown(value)}" if value is not None else " is empty" if has_column else ""
        return f"the column {column!r}{held}, but {remedy}"

    @cached_property
    def _letters(self) -> dict[str, Mapping[str, Any]]:
        """A dead letter of each reason, with a value of the reason's column if there is one."""
        found: dict[str, Mapping[str, Any]] = {}
        paths = files.matching(files.join(self._directory, DEAD_LETTERS), "*")
        for line in islice(chain.from_iterable(map(_lines, paths)), _LETTERS):
            letter = json.loads(line)
            reason = letter["reason"].removeprefix(ERROR)
            column = _column(self._schema, reason)
            if reason not in found or _value(found[reason], column) is None:
                found[reason] = letter
        return found


def _lines(path: str) -> Iterator[bytes]:
    with files.open_binary(path) as file:
        yield from file


def _value(letter: Mapping[str, Any], column: str | None) -> Any:
    row = letter.get("row")
    return row.get(column) if isinstance(row, dict) else None


def _column(schema: Schema, reason: str) -> str | None:
    """The column that a reason is about."""
    kind, _, name = reason.partition(":")
    if kind in ("invalid_feature", "missing_key"):
        return name
    return {
        "invalid_label": schema.label.name,
        "invalid_weight": schema.weight,
        "invalid_timestamp": schema.timestamp,
        IMPLAUSIBLE: schema.timestamp,
    }.get(kind)


def _remedy(schema: Schema, reason: str) -> str:
    """What the column must hold, and what to do."""
    kind, _, name = reason.partition(":")
    if kind == "invalid_label":
        return _remedy_of_label(schema.label)
    if kind == "invalid_feature":
        feature = next(f for f in schema.features if f.name == name)
        return (
            f"the schema declares {feature.dtype}: correct the column or its declaration, or "
            "choose `on_invalid: fill`"
        )
    unit = schema.timestamp_unit
    form = "ISO 8601 text" if unit == "iso" else f"a number of {unit}"
    return {
        "invalid_weight": "a weight must be a finite number of at least 0: correct the column, or "
        "name another one as `weight`",
        "invalid_timestamp": f"`timestamp_unit: {unit}` needs {form}: convert the column, or "
        "correct `timestamp_unit`",
        IMPLAUSIBLE: f"times lie between 1980 and 2099: is `timestamp_unit: {unit}` right?",
        "missing_key": "each row needs a task key: fill it in, or leave these rows out",
    }.get(kind, "")


def _remedy_of_label(label: Label) -> str:
    if label.kind == "binary":
        return (
            "the label must be 0 or 1 (true and false count too): convert the column, or declare "
            "`kind: regression` for other numbers"
        )
    limits = [
        *([f"at least {label.minimum:g}"] if label.minimum is not None else []),
        *([f"at most {label.maximum:g}"] if label.maximum is not None else []),
    ]
    return (
        f"the label must be {' and '.join(['a finite number', *limits])}: correct the column, or "
        "the range in the schema"
    )
