"""Removes rows from serialized task records of two definitions.

Each row of such a record names a task of the other definition, in a feature list called
``task_key:<definition>`` (see `tfrec_limaml.tasks.record_format.key_list`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from limaml_beam.erasure.task_key import LENGTH_DELIMITED, fields_of
from tfrec_limaml.tasks.record_format import QUERY_START, SAMPLE_COUNT, key_list
from tfrec_limaml.wire_format import opening, read_varint, varint

_FIRST, _SECOND, _THIRD = (number << 3 | LENGTH_DELIMITED for number in (1, 2, 3))
#: Prefix of the names of the lists with other definitions' keys.
NAMES_OTHERS = key_list("").encode()


def names_others(record: bytes) -> bool:
    """Whether the rows of a record name tasks of another definition."""
    return NAMES_OTHERS in record


def without_rows(record: bytes, is_erased: Callable[[str, bytes], bool]) -> bytes | None:
    """A record without the rows that name certain tasks.

    Args:
        record: A serialized record.
        is_erased: Whether a task is to be erased, by definition and task key.

    Returns:
        The same bytes if no row names one; None if no row stays, or no query row of a record with
        query rows.
    """
    parts = dict(fields_of(record))
    lists = [_key_and_value(entry) for _, entry in fields_of(parts[_SECOND])]
    steps = {name: [step for _, step in fields_of(content)] for name, content in lists}
    keep_mask = np.ones(max(map(len, steps.values()), default=0), np.bool_)
    for name, cells in steps.items():
        if name.startswith(NAMES_OTHERS):
            definition = name.removeprefix(NAMES_OTHERS).decode()
            keep_mask &= [not is_erased(definition, _text(cell)) for cell in cells]
    if keep_mask.all():
        return record
    context = {
        name: value for name, value in (_key_and_value(e) for _, e in fields_of(parts[_FIRST]))
    }
    start = _integer(context[QUERY_START.encode()])
    if not keep_mask.any() or (start >= 0 and not keep_mask[start:].any()):
        return None
    numbers = {SAMPLE_COUNT.encode(): int(keep_mask.sum())}
    if start >= 0:
        numbers[QUERY_START.encode()] = int(keep_mask[:start].sum())
    entries = [
        _entry(name, _integer_feature(numbers[name]) if name in numbers else value)
        for name, value in context.items()
    ]
    positions = np.flatnonzero(keep_mask).tolist()
    remaining_lists = [_entry(name, _feature_list(steps[name], positions)) for name, _ in lists]
    return _field(1, b"".join(entries)) + _field(2, b"".join(remaining_lists))


def _key_and_value(entry: bytes) -> tuple[bytes, bytes]:
    """Key and value of an entry of a map; an empty value is not written."""
    parts = dict(fields_of(entry))
    return parts[_FIRST], parts.get(_SECOND, b"")


def _text(cell: bytes) -> bytes:
    """The text of a step of a list of texts."""
    return dict(fields_of(dict(fields_of(cell))[_FIRST])).get(_FIRST, b"")


def _integer(feature: bytes) -> int:
    """The number that a feature holds; -1 for a negative one."""
    value = read_varint(dict(fields_of(dict(fields_of(feature))[_THIRD]))[_FIRST])
    return value if value < 1 << 63 else -1


def _integer_feature(value: int) -> bytes:
    return _field(3, _field(1, varint(value)))


def _feature_list(steps: Sequence[bytes], positions: Sequence[int]) -> bytes:
    return b"".join(_field(1, steps[position]) for position in positions)


def _entry(name: bytes, value: bytes) -> bytes:
    return _field(1, _field(1, name) + _field(2, value))


def _field(number: int, content: bytes) -> bytes:
    return opening(number, len(content)) + content
