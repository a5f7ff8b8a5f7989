"""Protobuf messages that are declared without the modules that generate them.

The generated modules import the ``tensorflow`` package. The encoding of a message depends only on
its field numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {"int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12}


def message_classes(
    package: str, messages: Mapping[str, Mapping[str, tuple[int, str]]]
) -> dict[str, Any]:
    """Classes of messages, in a descriptor pool of their own.

    Args:
        package: Name of the package.
        messages: Fields of each message: number and type; "*" marks a repeated field, "map:" a
            map from text.
    """
    file = descriptor_pb2.FileDescriptorProto(name=package, package=package, syntax="proto3")
    for name, fields in messages.items():
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


def _add(message: Any, name: str, number: int, kind: str, package: str) -> None:
    field = message.field.add(name=name, number=number, label=3 if kind.startswith("*") else 1)
    kind = kind.removeprefix("*")
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = 11, f".{package}.{kind}"
