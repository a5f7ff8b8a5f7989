"""The task keys to erase, and the recognition of their rows in files of any form."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from limaml_beam.erasure.record_rows import names_others, task_key_of
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import decode_task_key, task_key
from tfrec_limaml.store.erasure import matching


class ErasedKeys:
    """The keys to erase, and the recognition of their rows in files of any form.

    Args:
        keys: Task keys.

    Attributes:
        matched: The keys for which a row was found so far.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = frozenset(key.encode() for key in keys)
        self.matched: set[str] = set()
        #: The keys without the prefix of their definition; see `joint_key_prefix`.
        own = [key.split("|", 2)[2] if key.startswith("%|") else key for key in keys]
        #: A record that holds one of the keys, of any definition, contains one of these bytes.
        self._parts = [key.encode() for key in own]
        self._keys_by_word: dict[str, list[str]] = {}
        for key, own_key in zip(keys, own, strict=True):
            self._keys_by_word.setdefault(decode_task_key(own_key)[0], []).append(key)
        alternatives = "|".join(map(re.escape, sorted(self._keys_by_word))) or r"(?!)"
        self._words = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
        #: Key columns of task definitions, with the prefix of their keys in a store.
        self._definitions: dict[tuple[str, ...], str] = {}
        self._prefixes: dict[str, str] = {}

    def with_schema(self, schema: Schema, definitions: Sequence[str]) -> ErasedKeys:
        """The same keys for files of a folder with a schema.

        Args:
            schema: The schema, whose task definitions make keys of columns.
            definitions: The task definitions of the folder's records. A plain key belongs to the
                first one only (see `Schema.key_prefixes`).
        """
        result = ErasedKeys(())
        result._keys, result._words, result._parts = self._keys, self._words, self._parts
        result._keys_by_word, result.matched = self._keys_by_word, self.matched
        first = definitions or (schema.default_task,)
        result._prefixes = schema.key_prefixes(tuple(dict.fromkeys([*first, *schema.tasks])))
        result._definitions = {schema.task_columns(n): p for n, p in result._prefixes.items()}
        return result

    @property
    def has_definitions(self) -> bool:
        """Whether a schema says which columns make task keys."""
        return bool(self._definitions)

    def matches_key(self, key: bytes) -> bool:
        """Whether a task key (in the form of a store) is to be erased."""
        found = matching(key, self._keys)
        self.matched.update(map(bytes.decode, found))
        return bool(found)

    def matches_key_of(self, definition: str, key: bytes) -> bool:
        """Whether a definition's task key (in the form of records) is to be erased.

        Raises:
            LimamlError: No schema says which definition comes first.
        """
        if definition not in self._prefixes:
            raise LimamlError(
                f"no schema.yaml with the task definition {definition!r} is beside its records: "
                "its keys cannot be identified; restore the file, or delete the records"
            )
        return self.matches_key(self._prefixes[definition].encode() + key)

    def may_match_record(self, record: bytes) -> bool:
        """Whether a record may hold one of the keys, its own or that of another task.

        The time grows with the number of keys: for records that name others only.
        """
        return any(part in record for part in self._parts)

    def matches_dead_letter(self, record: bytes) -> bool:
        """Whether a record among dead letters is to be erased.

        A record whose key cannot be read is, if it holds the first part of a key as a word.
        """
        key = task_key_of(record)
        if key is None or names_others(record):
            return self.matches_text(record.decode(errors="replace"))
        return self.matches_key(key)

    def matches_text(self, text: str) -> bool:
        """Whether a text holds the first part of a key as a word."""
        words = self._words.findall(text)
        for word in words:
            self.matched.update(self._keys_by_word[word])
        return bool(words)

    def matches_row(self, row: Any) -> bool:
        """Whether a row of a dead letter is to be erased, by its key columns, else by its text."""
        if not isinstance(row, dict):
            return self.matches_text(str(row))
        prefixed_keys = [
            (prefix, task_key([row[column] for column in columns]))
            for columns, prefix in self._definitions.items()
            if all(column in row for column in columns)
        ]
        if not prefixed_keys or any(key is None for _, key in prefixed_keys):
            return self.matches_text(json.dumps(row, ensure_ascii=False))
        return any(self.matches_key(f"{prefix}{key}".encode()) for prefix, key in prefixed_keys)

    def key_columns(self, names: Sequence[str]) -> dict[tuple[str, ...], str]:
        """Key columns of the task definitions whose keys are in a table with these columns.

        The values are the prefixes of their keys in a store.
        """
        return {c: prefix for c, prefix in self._definitions.items() if set(c) <= set(names)}
