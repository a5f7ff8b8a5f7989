"""The schema: one declaration of columns that training, Beam and serving share.

A schema is a dataclass and a YAML file. It names the label, the timestamp, the task definitions and
the features, says how each feature is encoded, and where (in which joined table) each feature
lives. Its fingerprint travels in every manifest, so that artefacts made under different schemas are
never mixed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.declarations import (
    build,
    check_types,
    items,
    mapping,
    names,
    strip_defaults,
)
from tfrec_limaml.schema.yaml_text import load_mapping, read_text

Role = Literal["meta", "other"]
Encoding = Literal["numeric", "quantiles", "vocabulary", "hash"]
DType = Literal["string", "int64", "float32"]
Invalid = Literal["skip", "error", "fill"]

#: Milliseconds in one unit of a raw timestamp column; records always hold milliseconds since the
#: epoch (UTC).
TIMESTAMP_UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}

#: What a history can know about a key.
HISTORY_VALUES = ("rate", "count", "recency")

#: Names that features and carried columns may not have: records and requests hold something else
#: under them.
RESERVED_NAMES = frozenset({"label", "timestamp", "weight", "meta_embedding", "has_meta_embedding"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """One input column.

    Attributes:
        name: Column name, unique in the schema.
        role: ``"meta"`` features feed the meta block (and the global block too); ``"other"`` ones
            only the global block.
        dtype: Type in task records and in serving requests: ``"string"``, ``"int64"`` or
            ``"float32"``.
        encoding: ``"numeric"`` (float, normalised), ``"quantiles"`` (the same, and a piecewise
            linear component for each of ``bins`` quantile bins of the training rows),
            ``"vocabulary"`` (tokens learned from training data, one out-of-vocabulary bucket) or
            ``"hash"`` (stable hash into ``buckets``).
        width: Length of a fixed-size numeric vector; 1 for scalars.
        normalise: For numeric features: ``"standard"`` (zero mean, unit variance), ``"log"``
            (``sign(x) log1p|x|``, then standard) or ``"none"``.
        bins: Number of quantile bins at most (``encoding="quantiles"``).
        buckets: Number of hash buckets (``encoding="hash"``).
        max_vocabulary: Keep at most this many tokens, the most frequent
            (``encoding="vocabulary"``).
        embedding_width: ``None`` gives a one-hot vector; a number asks the blocks for an embedding
            of that width.
        separator: Splits a string into several values (a multi-valued feature); ``None`` for
            single-valued ones.
        table: Name of the joined feature table that holds the column; ``None`` for the interactions
            themselves.
        on_invalid: What to do with a missing, NaN, infinite or unparsable value: ``"fill"`` with
            ``fill_value``, ``"skip"`` the row (counted and reported) or stop with an ``"error"``.
        fill_value: Replacement for ``on_invalid="fill"``; ``None`` means ``0.0`` for numbers and
            ``""`` for strings.
    """

    name: str
    role: Role = "other"
    dtype: DType = "float32"
    encoding: Encoding = "numeric"
    width: int = 1
    normalise: Literal["standard", "log", "none"] = "standard"
    bins: int = 16
    buckets: int = 0
    max_vocabulary: int = 10_000
    embedding_width: int | None = None
    separator: str | None = None
    table: str | None = None
    on_invalid: Invalid = "fill"
    fill_value: float | str | None = None

    def __post_init__(self) -> None:
        check_types(self, f"feature {self.name!r}")
        if not self.categorical and self.dtype == "string":
            raise SchemaError(
                f"feature {self.name!r}: encoding {self.encoding!r} needs dtype int64 or float32, "
                "received string"
            )
        if self.encoding == "quantiles" and self.bins < 2:
            raise SchemaError(
                f"feature {self.name!r}: encoding 'quantiles' needs bins >= 2, received {self.bins}"
            )
        if self.categorical and self.dtype == "float32":
            raise SchemaError(
                f"feature {self.name!r}: encoding {self.encoding!r} needs dtype string or int64, "
                "received float32"
            )
        if self.encoding == "hash" and self.buckets < 1:
            raise SchemaError(
                f"feature {self.name!r}: encoding 'hash' needs buckets >= 1, received "
                f"{self.buckets}"
            )
        if self.width < 1 or (self.width > 1 and self.categorical):
            raise SchemaError(
                f"feature {self.name!r}: width must be 1 (or more, for numeric vectors), received "
                f"{self.width}"
            )
        if self.embedding_width is not None and (self.embedding_width < 1 or not self.categorical):
            raise SchemaError(
                f"feature {self.name!r}: embedding_width must be >= 1 on a categorical feature, "
                f"received {self.embedding_width}"
            )
        if self.separator is not None and (self.dtype != "string" or not self.separator):
            raise SchemaError(
                f"feature {self.name!r}: separator needs dtype string and at least one character, "
                f"received {self.separator!r} and {self.dtype}"
            )
        if self.max_vocabulary < 1 or self.buckets < 0:
            raise SchemaError(
                f"feature {self.name!r}: max_vocabulary must be at least 1 and buckets not negative"
                f", received {self.max_vocabulary} and {self.buckets}"
            )
        if self.dtype != "string" and isinstance(self.fill_value, str):
            raise SchemaError(
                f"feature {self.name!r}: fill_value must be a number for dtype {self.dtype}, "
                f"received {self.fill_value!r}"
            )

    @property
    def categorical(self) -> bool:
        """Whether values are tokens rather than numbers."""
        return self.encoding in ("vocabulary", "hash")

    @property
    def filler(self) -> float | int | str:
        """The value that replaces an invalid one under ``on_invalid="fill"``, in the feature's own
        dtype.
        """
        if self.dtype == "string":
            return "" if self.fill_value is None else str(self.fill_value)
        number = 0.0 if self.fill_value is None else float(self.fill_value)
        return int(number) if self.dtype == "int64" else number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """The target column.

    Attributes:
        name: Column name.
        kind: ``"binary"`` (values 0 and 1) or ``"regression"``.
        minimum, maximum: Allowed range for regression labels; rows outside are invalid.
        on_invalid: ``"skip"`` the row (counted and reported) or stop with an ``"error"``.
    """

    name: str
    kind: Literal["binary", "regression"] = "binary"
    minimum: float | None = None
    maximum: float | None = None
    on_invalid: Literal["skip", "error"] = "skip"

    def __post_init__(self) -> None:
        check_types(self, f"label {self.name!r}")
        if None not in (self.minimum, self.maximum) and not self.minimum < self.maximum:  # type: ignore[operator]
            raise SchemaError(
                f"label {self.name!r}: minimum must lie below maximum, received {self.minimum} and "
                f"{self.maximum}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """Point-in-time history features on one key: what a feature store would hold.

    For key columns ``(user_id, tab)`` up to three numeric features of role ``other`` are made,
    named ``history_user_id_tab_rate`` (smoothed mean label), ``..._count`` and ``..._recency``
    (days since the last row; ``-1`` without one). Each row sees only rows with a strictly earlier
    timestamp; evaluation rows see values frozen at the start of their split.

    Attributes:
        keys: Columns that the statistics are grouped by.
        smoothing: Pseudo-rows at the overall mean added to the rate.
        encoding: Of the features: ``"numeric"`` or ``"quantiles"``.
        per_token: Whether a multi-valued key stands for each of its tokens, whose values are then
            averaged; else its whole text is one key.
        values: Which of ``rate``, ``count`` and ``recency`` to make; all of them by default.
    """

    keys: tuple[str, ...]
    smoothing: float = 10.0
    encoding: Literal["numeric", "quantiles"] = "numeric"
    per_token: bool = False
    values: tuple[str, ...] = HISTORY_VALUES

    def __post_init__(self) -> None:
        what = f"history on {list(self.keys)}"
        check_types(self, what)
        if not self.keys or len(set(self.keys)) < len(self.keys):
            raise SchemaError(f"{what}: keys needs at least one column, and none of them twice")
        if self.smoothing < 0:
            raise SchemaError(f"{what}: smoothing must not be negative, received {self.smoothing}")
        if not self.values or set(self.values) - set(HISTORY_VALUES):
            raise SchemaError(
                f"{what}: values must be some of {list(HISTORY_VALUES)}, received "
                f"{list(self.values)}"
            )

    def names(self) -> dict[str, str]:
        """Name of the feature that holds each of the wanted values, in the order of
        `HISTORY_VALUES`.
        """
        stem = "history_" + "_".join(self.keys)
        return {value: f"{stem}_{value}" for value in HISTORY_VALUES if value in self.values}

    def features(self) -> tuple[Feature, ...]:
        """The numeric features that this declaration adds to the schema."""
        return tuple(
            Feature(
                name=name,
                encoding=self.encoding,
                normalise="standard" if value == "rate" else "log",
            )
            for value, name in self.names().items()
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Date ranges: ``[train_start, validation_start)``, ``[validation_start, test_start)``,
    ``[test_start, test_end)``; or shares of each task's own rows.

    Dates are ISO 8601 strings, UTC where they carry no offset; ``None`` leaves an end open.

    Attributes:
        per_task: Shares of the rows of each task of the default definition, in time order, that are
            train, validation and test rows; instead of dates. Training rows of one task may then be
            later than test rows of another: what is learned of items knows their future.
    """

    validation_start: str | None = None
    test_start: str | None = None
    train_start: str | None = None
    test_end: str | None = None
    per_task: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        check_types(self, "split")
        if self.per_task is not None:
            self._check_shares(self.per_task)
            return
        if self.validation_start is None or self.test_start is None:
            raise SchemaError("split needs validation_start and test_start, or per_task")
        marks = [self.train_start, self.validation_start, self.test_start, self.test_end]
        times = [parse_time(mark) for mark in marks if mark is not None]
        if times != sorted(set(times)):
            raise SchemaError(
                "split dates must increase strictly, received "
                f"{[m for m in marks if m is not None]}"
            )

    def _check_shares(self, shares: Sequence[float]) -> None:
        dates = [self.validation_start, self.test_start, self.train_start, self.test_end]
        if any(mark is not None for mark in dates):
            raise SchemaError("split takes per_task or dates, received both")
        fine = len(shares) == 3 and all(isinstance(s, (int, float)) and s > 0 for s in shares)
        if not fine or abs(sum(shares) - 1.0) > 1e-6:
            raise SchemaError(
                "split.per_task needs three positive shares that sum to 1, for example "
                f"[0.6, 0.2, 0.2]; received {list(shares)}"
            )
        object.__setattr__(self, "per_task", tuple(float(s) for s in shares))

    def name_of(self, timestamp_ms: int) -> str | None:
        """``"train"``, ``"validation"`` or ``"test"``; ``None`` outside all ranges."""
        if self.train_start is not None and timestamp_ms < parse_time(self.train_start):
            return None
        if self.test_end is not None and timestamp_ms >= parse_time(self.test_end):
            return None
        validation, test = self.starts()
        if timestamp_ms < parse_time(validation):
            return "train"
        return "validation" if timestamp_ms < parse_time(test) else "test"

    def starts(self) -> tuple[str, str]:
        """The dates from which on rows are validation and test rows; raises `SchemaError` for a
        split within tasks, which has none.
        """
        if self.validation_start is None or self.test_start is None:
            raise SchemaError(f"a split within tasks ({self.per_task}) has no dates")
        return self.validation_start, self.test_start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """Everything the toolkit must know about a data set's columns.

    Attributes:
        name: Short identifier.
        label: The target.
        timestamp: Name of the time column (a number in ``timestamp_unit`` since the epoch, or ISO
            8601 text).
        timestamp_unit: ``"s"``, ``"ms"``, ``"us"``, ``"ns"`` or ``"iso"``.
        tasks: Task definitions: name to key columns, e.g. ``{"user": ["user_id"], "user_tab":
            ["user_id", "tab"]}``. The first is the default one.
        features: Input columns.
        tables: Feature tables joined to the interactions: name to key column.
        history: Point-in-time history features to compute.
        weight: Optional column of per-sample weights (finite, not negative).
        carry: Numeric columns carried along in task records for reports (float32); never an input
            of a model.
        split: Optional default date ranges.
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
        features = [f.name for f in self.all_features]
        columns = [*features, *self.carry]
        double = sorted({n for n in columns if columns.count(n) > 1})
        if double:
            raise SchemaError(
                f"schema {self.name!r}: names of features and carried columns must be unique, "
                f"received twice: {double}"
            )
        if reserved := sorted(RESERVED_NAMES.intersection(columns)):
            raise SchemaError(
                f"schema {self.name!r}: {reserved} have a meaning of their own in records and "
                "requests; rename the columns"
            )
        if self.label.name in features:
            raise SchemaError(
                f"schema {self.name!r}: the label {self.label.name!r} may not be a feature too"
            )
        if self.weight is not None and self.weight in (self.label.name, self.timestamp):
            raise SchemaError(
                f"schema {self.name!r}: the weight may not be the label or the timestamp, received "
                f"{self.weight!r}"
            )
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

    @property
    def all_features(self) -> tuple[Feature, ...]:
        """Declared features followed by those that ``history`` adds."""
        return (*self.features, *(f for h in self.history for f in h.features()))

    @property
    def default_task(self) -> str:
        """Name of the first task definition."""
        return next(iter(self.tasks))

    def task_columns(self, definition: str | None = None) -> tuple[str, ...]:
        """Key columns of a task definition (the first one by default)."""
        name = self.default_task if definition is None else definition
        if name not in self.tasks:
            raise SchemaError(
                f"unknown task definition {name!r}; the schema {self.name!r} has "
                f"{sorted(self.tasks)}"
            )
        return tuple(self.tasks[name])

    def further_columns(self, definition: str | None, nested: str) -> tuple[str, ...]:
        """The key columns that a nested task definition adds to those of `definition`.

        Raises:
            SchemaError: `nested` does not refine `definition`, or records of `definition` lack the
                further columns.
        """
        outer, inner = self.task_columns(definition), self.task_columns(nested)
        further = inner[len(outer) :]
        if not further or inner[: len(outer)] != outer:
            raise SchemaError(
                f"task definition {nested!r} {list(inner)} does not refine {list(outer)}: its key "
                "must begin with these and go on"
            )
        fit = {
            f.name for f in self.features if f.dtype in ("string", "int64") and f.separator is None
        }
        if unfit := [name for name in further if name not in fit]:
            raise SchemaError(
                f"task definition {nested!r}: {unfit} must be single-valued features of dtype "
                "string or int64 to nest it"
            )
        return further

    def fingerprint(self) -> str:
        """16 hex digits over everything that changes what a model sees (not the default split, not
        carried columns).
        """
        content = self.to_dict()
        for field in ("split", "carry"):
            content.pop(field, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON/YAML types, without fields left at their defaults."""
        content = strip_defaults(self)
        content["tasks"] = {name: list(keys) for name, keys in self.tasks.items()}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Inverse of `to_dict`; raises `SchemaError` naming unknown or missing fields."""
        fields = dict(content)
        if "label" in fields:
            label = fields["label"]
            fields["label"] = build(
                Label, {"name": label} if isinstance(label, str) else label, "label"
            )
        fields["features"] = tuple(
            build(Feature, f, "feature") for f in items(fields.get("features", ()), "features")
        )
        history = items(fields.get("history", ()), "history")
        fields["history"] = tuple(
            build(
                History,
                {
                    **h,
                    "keys": names(h.get("keys"), "history keys"),
                    "values": names(h.get("values", HISTORY_VALUES), "history values"),
                },
                "history",
            )
            for h in history
        )
        fields["carry"] = names(fields.get("carry", ()), "carry")
        fields["tasks"] = {
            _name(name, "a task definition's name"): names(keys, f"task {name!r}")
            for name, keys in mapping(fields.get("tasks", {}), "tasks").items()
        }
        fields["tables"] = {
            _name(name, "a table's name"): _name(key, f"the key of table {name!r}")
            for name, key in mapping(fields.get("tables", {}), "tables").items()
        }
        if fields.get("split") is not None:
            # YAML reads an unquoted date as a date
            marks = {
                name: str(mark) if isinstance(mark, dt.date) else mark
                for name, mark in mapping(fields["split"], "split").items()
            }
            fields["split"] = build(Split, marks, "split")
        return build(cls, fields, "schema")

    def save(self, path: str | Path) -> None:
        """Writes the schema as YAML."""
        Path(path).write_text(
            yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Reads a YAML (or JSON) schema; raises `SchemaError` with the file's name."""
        path = Path(path)
        if not path.is_file():
            raise SchemaError(
                f"no schema file at {path}; write one, or let `limaml datasets describe` draw one"
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


def parse_time(value: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 date or time; UTC where no offset is given."""
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise SchemaError(
            f"cannot read {value!r} as an ISO 8601 date or time (for example 2022-05-03 or "
            "2022-05-03T00:00:00+08:00)"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise SchemaError(f"{what} must be text, received {value!r}")
    return value
