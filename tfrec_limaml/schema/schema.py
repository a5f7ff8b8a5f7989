"""The schema: one declaration of columns that training, Beam and serving share.

A schema is a dataclass and a YAML file. It names the label, the timestamp, the task definitions and
the features, the encoding of each feature, and the joined table that contains it. Its fingerprint
is part of every manifest, so that artefacts of different schemas are never mixed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tfrec_limaml import staging
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.columns import (
    HISTORY_VALUES,
    ROLES,
    TIMESTAMP_UNITS,
    DType,
    Encoding,
    Feature,
    History,
    Invalid,
    Label,
    Role,
)
from tfrec_limaml.schema.declarations import (
    build,
    check_keys,
    check_types,
    names,
    strip_defaults,
)
from tfrec_limaml.schema.schema_fields import fields_of
from tfrec_limaml.schema.split import Split, parse_time
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.schema.yaml_text import load_mapping, read_text

__all__ = [
    "HISTORY_VALUES",
    "RESERVED_NAMES",
    "SCORED_COLUMNS",
    "TIMESTAMP_UNITS",
    "DType",
    "Encoding",
    "Feature",
    "History",
    "Invalid",
    "Label",
    "Role",
    "Schema",
    "Split",
    "parse_time",
]

#: Names that features and passthrough columns may not have: they have another meaning in records
#: and requests.
RESERVED_NAMES = frozenset({"label", "timestamp", "weight", "meta_embedding", "has_meta_embedding"})
#: Names that passthrough columns may not have, since columns of scored rows have them.
SCORED_COLUMNS = frozenset({"probability", "prediction", "history", "last_seen", "task_key"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """The columns of a data set.

    Examples:
        >>> age, price = Feature(name="age", role="meta"), Feature(name="price")
        >>> click, tasks = Label(name="click"), {"user": ["user_id"]}
        >>> Schema(name="shop", label=click, timestamp="time", tasks=tasks, features=(age, price))

    Attributes:
        name: Name of the data set, in messages and on data cards.
        label: The target.
        timestamp: Name of the time column.
        timestamp_unit: Unit of numbers since the epoch, ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; or
            ``"iso"`` for ISO 8601 strings.
        tasks: Task definitions: name to key columns, e.g. ``{"user": ["user_id"], "user_tab":
            ["user_id", "tab"]}``. The first is the default one.
        features: Input columns.
        tables: Feature tables joined to the interactions: name to key column.
        history: Point-in-time history features to compute.
        weight: Optional column of per-sample weights (finite, not negative).
        carry: Passthrough columns: numeric columns in task records for reports (float32), never an
            input of a model.
        split: Optional default date ranges, or shares of each task's rows (``per_task``).
    """

    name: str
    label: Label
    timestamp: str
    tasks: Mapping[str, tuple[str, ...]]
    features: tuple[Feature, ...]
    timestamp_unit: str = "ms"
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    history: tuple[History, ...] = ()
    weight: str | None = None
    carry: tuple[str, ...] = ()
    split: Split | None = None

    def __post_init__(self) -> None:
        check_types(self, f"schema {self.name!r}")
        for task, keys in self.tasks.items():
            names(keys, f"schema {self.name!r}: tasks: {task}")
        names(self.carry, f"schema {self.name!r}: carry")
        self._check_names()
        if not self.tasks or any(not keys for keys in self.tasks.values()):
            raise SchemaError(
                f"schema {self.name!r}: tasks needs at least one definition with key columns, "
                f"received {dict(self.tasks)}"
            )
        if not any(f.role == "meta" for f in self.features):
            raise SchemaError(
                f"schema {self.name!r}: at least one feature needs role 'meta'; the meta block "
                "has no input otherwise"
            )
        if self.timestamp_unit not in (*TIMESTAMP_UNITS, "iso"):
            raise SchemaError(
                f"schema {self.name!r}: timestamp_unit must be one of "
                f"{[*TIMESTAMP_UNITS, 'iso']}, received {self.timestamp_unit!r}"
            )
        unknown = sorted({f.table for f in self.features if f.table is not None} - set(self.tables))
        if unknown:
            raise SchemaError(
                f"schema {self.name!r}: features name tables {unknown}, but tables holds "
                f"{sorted(self.tables)}"
            )

    def _check_names(self) -> None:
        features = [f.name for f in self.all_features]
        columns = [*features, *self.carry]
        repeated = sorted({n for n in columns if columns.count(n) > 1})
        if repeated:
            raise SchemaError(
                f"schema {self.name!r}: names of features and passthrough columns must be unique, "
                f"received twice: {repeated}"
            )
        if reserved := sorted(RESERVED_NAMES.intersection(columns)):
            raise SchemaError(
                f"schema {self.name!r}: {reserved} are reserved names in records and requests; "
                f"rename the columns"
            )
        self._check_meanings(features)
        history = [h.keys for h in self.history]
        check_keys(f"schema {self.name!r}", self.label.name, self.tasks, self.tables, history)
        if self.weight is not None and self.weight in (self.label.name, self.timestamp):
            raise SchemaError(
                f"schema {self.name!r}: the weight may not be the label or the timestamp, received "
                f"{self.weight!r}"
            )

    def _check_meanings(self, features: Sequence[str]) -> None:
        """Refuses names of columns that mean something else as well."""
        roles = [f.name for f in self.all_features if f.embedding_width and f.name in ROLES]
        if roles:
            raise SchemaError(
                f"schema {self.name!r}: features with an embedding may not be named like a role, "
                f"received {roles}; rename the columns"
            )
        if reserved := sorted(SCORED_COLUMNS.intersection(self.carry)):
            raise SchemaError(
                f"schema {self.name!r}: the passthrough columns {reserved} would replace columns "
                f"of the same names in scored rows; rename them"
            )
        if self.label.name in features:
            raise SchemaError(
                f"schema {self.name!r}: the label {self.label.name!r} may not be a feature too; "
                "remove the feature or name another label"
            )
        if self.timestamp in features:
            raise SchemaError(
                f"schema {self.name!r}: the timestamp {self.timestamp!r} may not be a feature, "
                "since no later row has a value seen in training; make columns such as the hour "
                "or the weekday"
            )

    @property
    def all_features(self) -> tuple[Feature, ...]:
        """Declared features followed by those that ``history`` adds."""
        return (*self.features, *(f for h in self.history for f in h.features()))

    @property
    def default_task(self) -> str:
        """Name of the first task definition."""
        return next(iter(self.tasks))

    def task_columns(self, definition: str | None = None) -> tuple[str, ...]:
        """Key columns of a task definition, by default the first; `SchemaError` if unknown."""
        name = self.default_task if definition is None else definition
        if name not in self.tasks:
            raise SchemaError(
                f"unknown task definition {name!r}; the schema {self.name!r} has "
                f"{sorted(self.tasks)}"
            )
        return tuple(self.tasks[name])

    def other_definitions(self, definition: str, definitions: Sequence[str]) -> tuple[str, ...]:
        """The task definitions that neither refine `definition` nor are refined by it."""
        key_columns = set(self.task_columns(definition))
        columns = {name: set(self.task_columns(name)) for name in definitions}
        return tuple(
            n for n, keys in columns.items() if not (key_columns <= keys or keys <= key_columns)
        )

    def key_prefixes(self, definitions: Sequence[str]) -> dict[str, str]:
        """Prefix of each definition's task keys in a store with keys of several definitions.

        It is empty, except for the second side's definition.
        """
        second_side = self.other_definitions(definitions[0], definitions)
        return {name: joint_key_prefix(name) if name in second_side else "" for name in definitions}

    def further_columns(self, definition: str | None, nested: str) -> tuple[str, ...]:
        """The key columns that a nested task definition adds to those of `definition`.

        Raises:
            SchemaError: `nested` does not refine `definition`, or records of `definition` do not
                have the further columns.
        """
        outer, inner = self.task_columns(definition), self.task_columns(nested)
        added = inner[len(outer) :]
        if not added or inner[: len(outer)] != outer:
            raise SchemaError(
                f"task definition {nested!r} {list(inner)} does not refine {list(outer)}: its key "
                f"must begin with these columns and have more"
            )
        allowed = {
            f.name for f in self.features if f.dtype in ("string", "int64") and f.separator is None
        }
        if invalid := [name for name in added if name not in allowed]:
            raise SchemaError(
                f"task definition {nested!r}: {invalid} must be single-valued features of dtype "
                f"string or int64"
            )
        return added

    def fingerprint(self) -> str:
        """16 hex digits of a digest of all declarations but the split and passthrough columns.

        These two do not change a model's input. The numbers 5 and 5.0 give different digests.
        """
        content = self.to_dict()
        for field in ("split", "carry"):
            content.pop(field, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The schema in plain JSON and YAML types, without fields left at their defaults."""
        content = strip_defaults(self)
        content["tasks"] = {name: list(keys) for name, keys in self.tasks.items()}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Inverse of `to_dict`; raises `SchemaError` naming unknown or missing fields."""
        return build(cls, fields_of(content), "schema")

    def save(self, path: str | Path) -> None:
        """Writes the schema as YAML."""
        staging.write_text(
            path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        )

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Reads a YAML (or JSON) schema; raises `SchemaError` with the file's name."""
        path = Path(path)
        if not path.is_file() and not path.parent.is_dir():
            raise SchemaError(f"no folder {path.parent}: check the path, received {path}")
        if not path.is_file() and (path.parent.parent / path.name).is_file():
            raise SchemaError(
                f"no schema file at {path}, but in the folder above: give {path.parent.parent}"
            )
        if not path.is_file():
            raise SchemaError(
                f"no schema file at {path}; write one, or generate one with `limaml datasets "
                f"describe`"
            )
        return cls.from_yaml(read_text(path), path)

    @classmethod
    def from_yaml(cls, text: str, where: str | Path) -> Schema:
        """A schema from its file's text; raises `SchemaError` naming `where`."""
        content = load_mapping(text, where)
        try:
            return cls.from_dict(content)
        except SchemaError as error:
            raise SchemaError(f"{where}: {error}") from error

    def replace(self, **changes: Any) -> Schema:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
