"""Decodes messages of a topic: JSON objects, one interaction each; others are dead letters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.task_keys import key_text

#: Reasons of dead letters in addition to those of rows.
UNDECODABLE, OTHER_MODEL = "undecodable_message", "other_model_version"
#: A message may name the model version that it is for, unless the schema has such a column.
VERSION_FIELD = "model_version"
_LONGEST_TEXT = 2000


@dataclasses.dataclass(frozen=True)
class Message:
    """A message of a topic.

    Attributes:
        source: Origin of the message: topic, partition and offset.
        value: Bytes of the message; None for a message without a value.
    """

    source: str
    value: bytes | None


@dataclasses.dataclass(frozen=True)
class Poison:
    """A message without an interaction."""

    reason: str
    detail: str
    message: Message

    def letter(self) -> str:
        """As a JSON line."""
        text = (self.message.value or b"").decode(errors="replace")[:_LONGEST_TEXT]
        content = {"reason": self.reason, "file": self.message.source}
        return json.dumps(content | {"detail": self.detail, "row": text}, ensure_ascii=False)


def decode(
    messages: Sequence[Message],
    columns: Sequence[str],
    version: int,
    optional: Collection[str] = (),
) -> tuple[pa.Table | None, list[Poison]]:
    """The interactions of some messages, raw, and the messages that hold none.

    Args:
        messages: The messages.
        columns: Names that are read; an object's other names are not.
        version: Model version of the updater.
        optional: Those of `columns` that an object may lack: its value is then null.

    Returns:
        A table of `columns`, or None without rows; and the other messages with their reasons.
    """
    rows, poison = [], []
    required, is_column = set(columns).difference(optional), VERSION_FIELD in columns
    for message in messages:
        decoded = _object(message, required)
        if isinstance(decoded, Poison):
            poison.append(decoded)
            continue
        message_version = None if is_column else decoded.get(VERSION_FIELD)
        if message_version is not None and str(message_version) != str(version):
            detail = f"for model version {message_version!r}, this updater has {version}"
            poison.append(Poison(OTHER_MODEL, detail, message))
        else:
            rows.append(decoded)
    if not rows:
        return None, poison
    return pa.table({name: _column([row.get(name) for row in rows]) for name in columns}), poison


def _object(message: Message, required: set[str]) -> dict[str, Any] | Poison:
    try:
        decoded = json.loads(message.value or b"")
    except (ValueError, RecursionError) as error:
        return Poison(UNDECODABLE, f"not JSON: {error}", message)
    if not isinstance(decoded, dict):
        return Poison(UNDECODABLE, f"a JSON {type(decoded).__name__}, not an object", message)
    missing = sorted(required - set(decoded))
    if missing:
        return Poison("unknown_schema", f"lacks {missing}", message)
    return decoded


def _column(values: Sequence[Any]) -> pa.Array:
    """The values of one column as one type; as text if their types differ.

    A single value of a wrong type must not change the others.
    """
    plain = [None if isinstance(value, dict) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    if any(isinstance(value, list) for value in plain):
        return _lists(plain)
    return pa.array([_text(value) for value in plain], pa.string())


def _lists(values: Sequence[Any]) -> pa.Array:
    """Lists of numbers or lists of texts, whichever are more; null for everything else."""
    numbers = [_numbers(value) for value in values]
    texts = [_texts(value) for value in values]
    if sum(v is not None for v in numbers) >= sum(v is not None for v in texts):
        return pa.array(numbers, pa.list_(pa.float64()))
    return pa.array(texts, pa.list_(pa.string()))


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, list) or not all(type(v) in (int, float) for v in value):
        return None
    try:
        return [float(v) for v in value]
    except OverflowError:
        return None


def _texts(value: Any) -> list[str | None] | None:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        return None
    return [_text(v) for v in value]


def _text(value: Any) -> str | None:
    try:
        return key_text(value)
    except LimamlError:
        return None
