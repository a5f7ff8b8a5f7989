"""Protobuf messages that are declared without the modules that generate them.

The generated modules import the ``tensorflow`` package. The encoding of a message depends only on
its field numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int64": _Field.TYPE_INT64,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def message_classes(
    package: str, messages: Mapping[str, Mapping[str, tuple[int, str]]]
) -> dict[str, Any]:
    """Classes of messages, in a descriptor pool of their own.

    Args:
        package: Name of the package.
        messages: Fields of each message: number and type, which is a name of `_TYPES` or of a
            message; "*" marks a repeated field, "map:" a map from text.

    Raises:
        ValueError: A type is neither.
    """
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    for name, fields in messages.items():
        _check_types(name, fields, messages)
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind.startswith("map:"):
                entry = message.nested_type.add(
                    name=f"{field.title().replace('_', '')}Entry", options={"map_entry": True}
                )
                _add(entry, "key", 1, "string", package)
                _add(entry, "value", 2, kind.removeprefix("map:"), package)
                kind = f"*{name}.{entry.name}"
            _add(message, field, number, kind, package)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _check_types(
    name: str, fields: Mapping[str, tuple[int, str]], messages: Mapping[str, Any]
) -> None:
    for field, (_, kind) in fields.items():
        kind = kind.removeprefix("*").removeprefix("map:")
        if kind not in _TYPES and kind not in messages:
            raise ValueError(
                f"field {field!r} of message {name!r} must be of a type of {list(_TYPES)} or of a "
                f"declared message, received {kind!r}"
            )


def _add(message: Any, name: str, number: int, kind: str, package: str) -> None:
    label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    kind = kind.removeprefix("*")
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
