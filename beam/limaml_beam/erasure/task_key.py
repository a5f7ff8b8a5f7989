"""The task key of a task record, read from its bytes."""

from __future__ import annotations

from collections.abc import Iterator

_FIELD_1, _FIELD_2 = 0x0A, 0x12
_TASK_KEY = b"task_key"


def task_key_of(record: bytes) -> bytes | None:
    """The task key of a serialized record (see `tfrec_limaml.tasks.record_format`); None where
    there is none to be read.
    """
    try:
        for tag, context in _fields(record):
            if tag == _FIELD_1:
                for _, entry in _fields(context):
                    parts = dict(_fields(entry))
                    if parts.get(_FIELD_1) == _TASK_KEY:
                        bytes_list = dict(_fields(parts[_FIELD_2]))[_FIELD_1]
                        return dict(_fields(bytes_list))[_FIELD_1]
    except (IndexError, KeyError, ValueError):
        pass
    return None


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of length-delimited fields; raises IndexError or ValueError on others."""
    place = 0
    while place < len(content):
        tag, size, shift = content[place], 0, 0
        if tag & 7 != 2:
            raise ValueError(f"tag {tag} is of no length-delimited field")
        while True:
            place += 1
            byte = content[place]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        place += 1
        if place + size > len(content):
            raise IndexError(place)
        yield tag, content[place : place + size]
        place += size
