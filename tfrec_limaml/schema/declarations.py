"""Dataclasses from and to the plain mappings of YAML and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfrec_limaml.errors import SchemaError


def names(value: Any, what: str) -> tuple[str, ...]:
    """A list of names as a tuple; raises `SchemaError` for anything else, a lone string too."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise SchemaError(
            f"{what} must be a list of names, for example [user_id], received {value!r}"
        )
    return tuple(value)


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """The value, if it is a mapping; raises `SchemaError` otherwise."""
    if not isinstance(value, Mapping):
        raise SchemaError(f"{what} must be a mapping, received {value!r}")
    return value


def items(value: Any, what: str) -> list[Mapping[str, Any]]:
    """The value, if it is a list of mappings; raises `SchemaError` otherwise."""
    if not isinstance(value, list | tuple):
        raise SchemaError(f"{what} must be a list of mappings, received {value!r}")
    return [mapping(item, f"each of {what}") for item in value]


def build(cls: type, content: Mapping[str, Any], what: str) -> Any:
    """An instance of dataclass `cls`; raises `SchemaError` naming unknown or missing fields of
    `what`.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(map(str, set(mapping(content, what)) - set(known)))
    if unknown:
        raise SchemaError(f"{what} has unknown fields {unknown}; known ones are {sorted(known)}")
    required = [
        n
        for n, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [n for n in required if n not in content]
    if missing:
        raise SchemaError(f"{what} lacks the required fields {missing}")
    return cls(**content)


def strip_defaults(value: Any) -> Any:
    """Dataclasses as mappings without fields left at their defaults, sequences as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            default = (
                f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            )
            if item != default:
                out[f.name] = strip_defaults(item)
        return out
    if isinstance(value, Mapping):
        return {k: strip_defaults(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [strip_defaults(v) for v in value]
    return value
