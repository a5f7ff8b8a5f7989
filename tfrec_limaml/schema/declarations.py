"""Conversion of dataclasses from and to the plain mappings of YAML and JSON."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.wording import closest


def names(value: Any, subject: str) -> tuple[str, ...]:
    """A list of names as a tuple.

    Raises `SchemaError` for anything else, a single string included.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise SchemaError(
            f"{subject} must be a list of names, for example [user_id], received {value!r}"
        )
    return tuple(value)


def text_name(value: object, subject: str) -> str:
    """The value, if it is a text and not empty; raises `SchemaError` otherwise."""
    if not isinstance(value, str) or not value:
        raise SchemaError(f"{subject} must be text, received {value!r}")
    return value


def check_keys(
    subject: str,
    label: str,
    tasks: Mapping[str, Sequence[str]],
    tables: Mapping[str, str],
    history: Sequence[Sequence[str]],
) -> None:
    """Raises `SchemaError` for a key with the label, or for a name that no folder or file can have.

    Task definitions, tables and histories are folders and files.
    """
    if any(label in key for key in (*tasks.values(), *history)):
        raise SchemaError(
            f"{subject}: the label {label!r} may not be in the key of a task definition or of "
            "history features, which would give it away"
        )
    stems = ["_".join(key) for key in history]
    for stem in stems:
        if stems.count(stem) > 1:
            raise SchemaError(
                f"{subject}: two entries of history have the name {stem!r}, that of their features "
                "and of their file: name all values in one entry, or rename a column"
            )
    for kind, named in (("task definition", tasks), ("table", tables)):
        for name in named:
            if name.startswith(".") or "/" in name or "\\" in name:
                raise SchemaError(
                    f"{subject}: the name of the {kind} {name!r} is also that of its folder or "
                    "file: choose a name without slashes that does not begin with a full stop"
                )


def mapping(value: Any, subject: str) -> Mapping[str, Any]:
    """The value, if it is a mapping; raises `SchemaError` otherwise."""
    if not isinstance(value, Mapping):
        raise SchemaError(f"{subject} must be a mapping, received {value!r}")
    return value


def items(value: Any, subject: str) -> list[Mapping[str, Any]]:
    """The value, if it is a list of mappings; raises `SchemaError` otherwise."""
    if not isinstance(value, list | tuple):
        raise SchemaError(f"{subject} must be a list of mappings, received {value!r}")
    return [mapping(item, f"each of {subject}") for item in value]


def build(cls: type, content: Mapping[str, Any], subject: str) -> Any:
    """An instance of dataclass `cls`; raises `SchemaError` for unknown or missing fields."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(map(str, set(mapping(content, subject)) - set(fields)))
    if unknown:
        raise SchemaError(f"{subject} has unknown fields {unknown}{closest(unknown[0], fields)}")
    required_fields = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [n for n in required_fields if n not in content]
    if missing:
        raise SchemaError(f"{subject} lacks the required fields {missing}; add them")
    return cls(**content)


def check_types(value: Any, subject: str) -> None:
    """Raises `SchemaError` if a field of the dataclass `value` does not have its declared type.

    Checks texts, numbers, choices and other dataclasses. The message calls `value` `subject`.
    """
    for name, allowed in _scalars(type(value)).items():  # type: ignore[arg-type]
        field = getattr(value, name)
        if not any(_is(field, kind) for kind in allowed):
            expected = " or ".join(_describe_kind(kind) for kind in allowed)
            raise SchemaError(
                f"{subject}: {name} must be {expected}, received {field!r}{_hint(field)}"
            )
    for name, (allowed, several) in _parts(type(value)).items():  # type: ignore[arg-type]
        field = getattr(value, name)
        listed = isinstance(field, list | tuple)
        for part in field if several and listed else (field,):
            if not isinstance(part, allowed) or several != listed:
                kind = allowed[0].__name__
                expected = f"a list of {kind} objects" if several else f"a {kind}"
                raise SchemaError(
                    f"{subject}: {name} must be {expected}, received {part!r}; make one with "
                    f"tfrec_limaml.{kind}(...)"
                )


@functools.cache
def _scalars(cls: Any) -> dict[str, tuple[Any, ...]]:
    """Fields that hold a single value, with the types that they may have."""
    scalars = {}
    for name, hint in get_type_hints(cls).items():
        union = get_origin(hint) in (Union, types.UnionType)
        allowed = get_args(hint) if union else (hint,)
        if all(kind in (str, int, float, type(None)) or _is_literal(kind) for kind in allowed):
            scalars[name] = allowed
    return scalars


@functools.cache
def _parts(cls: Any) -> dict[str, tuple[tuple[type, ...], bool]]:
    """Fields that hold other dataclasses: the allowed types, and whether it is a list of them."""
    parts = {}
    for name, hint in get_type_hints(cls).items():
        kinds = get_args(hint) or (hint,)
        if any(dataclasses.is_dataclass(kind) for kind in kinds):
            allowed = tuple(kind for kind in kinds if isinstance(kind, type))
            parts[name] = allowed, get_origin(hint) is tuple
    return parts


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is(value: Any, kind: Any) -> bool:
    if _is_literal(kind):
        return isinstance(value, str) and value in get_args(kind)
    if kind is type(None):
        return value is None
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return isinstance(value, numbers.Integral) if kind is int else math.isfinite(value)


def _describe_kind(kind: Any) -> str:
    if _is_literal(kind):
        return f"one of {list(get_args(kind))}"
    return {str: "text", int: "a whole number", float: "a finite number"}.get(kind, "left out")


def _hint(value: Any) -> str:
    if isinstance(value, bool):
        return "; YAML reads on, off, yes and no as true and false: put it in quotes"
    if isinstance(value, str) and value.replace("e", "").replace("+", "").isdigit():
        return "; YAML reads it as text: write the number out in digits"
    return ""


def strip_defaults(value: Any) -> Any:
    """Dataclasses as mappings without fields left at their defaults, sequences as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            default = (
                f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            )
            if item != default:
                result[f.name] = strip_defaults(item)
        return result
    if isinstance(value, Mapping):
        return {k: strip_defaults(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [strip_defaults(v) for v in value]
    return value
