"""Reads YAML: duplicate keys and malformed texts are errors with a clear message."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tfrec_limaml.errors import SchemaError


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys; YAML's own loader uses the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; raises `yaml.constructor.ConstructorError` for a repeated key."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def load_mapping(text: str, where: str | Path) -> Mapping[Any, Any]:
    """The mapping that a YAML (or JSON) text holds.

    Raises:
        SchemaError: The text is not YAML, names a key twice, or holds something else.
    """
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        raise SchemaError(f"{where} is not valid YAML: {reason}") from error
    if not isinstance(content, Mapping):
        raise SchemaError(
            f"{where} holds {type(content).__name__}, expected a mapping of schema fields"
        )
    return content


def read_text(path: Path) -> str:
    """A text file in UTF-8; raises `SchemaError` naming it if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"cannot read {path}: {error}; it must be a text file in UTF-8"
        ) from error
