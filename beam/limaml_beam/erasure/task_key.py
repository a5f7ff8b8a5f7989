"""The task key of a task record, read from its bytes."""

from __future__ import annotations

from collections.abc import Iterator

#: The wire type of text, lists and messages, in the lowest three bits of a tag.
LENGTH_DELIMITED = 2
_FIELD_1, _FIELD_2 = 0x0A, 0x12
_TASK_KEY = b"task_key"


def task_key_of(record: bytes) -> bytes | None:
    """The task key of a serialized record; None if there is none.

    See `tfrec_limaml.tasks.record_format`.
    """
    try:
        for tag, context in fields_of(record):
            if tag == _FIELD_1:
                for _, entry in fields_of(context):
                    parts = dict(fields_of(entry))
                    if parts.get(_FIELD_1) == _TASK_KEY:
                        bytes_list = dict(fields_of(parts[_FIELD_2]))[_FIELD_1]
                        return dict(fields_of(bytes_list))[_FIELD_1]
    except (IndexError, KeyError, ValueError):
        pass
    return None


def fields_of(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of length-delimited fields; raises IndexError or ValueError on others."""
    position = 0
    while position < len(content):
        tag, size, shift = content[position], 0, 0
        if tag & 7 != LENGTH_DELIMITED:
            raise ValueError(f"tag {tag} is of no length-delimited field")
        while True:
            position += 1
            byte = content[position]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        position += 1
        if position + size > len(content):
            raise IndexError(position)
        yield tag, content[position : position + size]
        position += size
