"""Converts the key columns of a request to task keys in the form of the store."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limaml_serving.client.feature_reader import is_missing
from limaml_serving.errors import RequestError
from tfrec_limaml.schema.task_keys import MAX_KEY_BYTES, fits, task_key

_ONE_KEY = np.zeros(1, np.int64)
_ONE_KEY.flags.writeable = False


class TaskKeys(NamedTuple):
    """A request's task keys under one task definition.

    Attributes:
        keys: The keys; ``None`` if a key column is ``None``.
        position: Place in `keys` of the one shared key, ``[1]``, or of each candidate's, ``[N]``.
    """

    keys: tuple[str | None, ...]
    position: npt.NDArray[np.int64]


def task_keys_of(
    names: Sequence[str],
    member: Mapping[str, Any],
    columns: Mapping[str, Any],
    count: int,
    prefix: str,
) -> TaskKeys:
    """The task keys of a request; one if every key column belongs to the member.

    Args:
        names: The key columns.
        member: The member's values by name.
        columns: The candidates' columns by name.
        count: Number of candidates.
        prefix: Prefix of the keys in the store.

    Raises:
        RequestError: A key column is missing, or holds neither text nor numbers.
    """
    _check_given(names, member, columns)
    try:
        if columns.keys().isdisjoint(names):
            values = tuple([_key_value(member[name]) for name in names])
            hash(values)  # as text and numbers can be
            return TaskKeys((_stored(task_key(values), prefix),), _ONE_KEY)
        if len(names) == 1 and (keys := _plain_keys(columns[names[0]], prefix)) is not None:
            return keys
        positions, index = _distinct(
            [
                _values(columns[name]) if name in columns else [_key_value(member[name])] * count
                for name in names
            ],
            count,
        )
    except TypeError as error:
        raise RequestError(
            f"the key columns {list(names)} need text or numbers ({error})"
        ) from error
    return TaskKeys(tuple([_stored(task_key(key), prefix) for key in positions]), index)


def _check_given(
    names: Sequence[str], member: Mapping[str, Any], columns: Mapping[str, Any]
) -> None:
    for name in names:
        if name not in columns and name not in member:
            raise RequestError(
                f"the key column {name!r} is missing: give it (None for someone unknown) to look "
                "up the meta embedding"
            )


def _plain_keys(column: Any, prefix: str) -> TaskKeys | None:
    """The keys of a column of text or integers that need no conversion; None if some need it."""
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    kinds = set(map(type, values))
    texts = values if kinds == {str} else list(map(str, values)) if kinds == {int} else None
    if texts is None:
        return None
    # With a prefix they are keys of candidates, which seldom repeat.
    keys = texts if prefix else list(dict.fromkeys(texts))
    joined_keys = "\n".join(keys)
    longest = max(map(len, keys)) + len(prefix.encode())
    unchanged = (
        "" not in keys
        and "%" not in joined_keys
        and "|" not in joined_keys
        and joined_keys.isascii()
    )
    if not unchanged or longest > MAX_KEY_BYTES:
        return None
    count = len(keys)
    if prefix:
        keys = (prefix + joined_keys.replace("\n", f"\n{prefix}")).split("\n")
        if len(keys) != count:  # a key contains a line break
            return None
    if count == len(texts):
        return TaskKeys(tuple(keys), _in_order(count))
    position_of_key = dict(zip(keys, range(count), strict=True))
    return TaskKeys(tuple(keys), np.array(list(map(position_of_key.__getitem__, texts))))


@functools.lru_cache(maxsize=64)
def _in_order(count: int) -> npt.NDArray[np.int64]:
    positions = np.arange(count)
    positions.flags.writeable = False
    return positions


def _stored(key: str | None, prefix: str) -> str | None:
    """The key in the form of the store; None without a key, or if no store can hold it."""
    return f"{prefix}{key}" if key is not None and (not prefix or fits(prefix + key)) else None


def _distinct(
    lists: Sequence[Sequence[Any]], count: int
) -> tuple[dict[tuple[Any, ...], int], npt.NDArray[np.int64]]:
    positions: dict[tuple[Any, ...], int] = {}
    index = np.fromiter(
        (positions.setdefault(key, len(positions)) for key in zip(*lists, strict=True)),
        np.int64,
        count,
    )
    return positions, index


def _values(column: Any) -> list[Any]:
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [_key_value(value) for value in values]


def _key_value(value: Any) -> Any:
    return None if is_missing(value) else value
