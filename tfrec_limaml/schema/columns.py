"""Columns of a data set: features, the label and history features."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.declarations import check_types, names

#: The block that reads a feature: the meta block, or the global block alone.
Role = Literal["meta", "other"]
ROLES: tuple[Role, ...] = get_args(Role)
#: How a feature's values become numbers; see `Feature`.
Encoding = Literal["numeric", "quantiles", "vocabulary", "hash"]
#: The type of a column's values in records and requests.
DType = Literal["string", "int64", "float32"]
#: What becomes of a row with an invalid value; see `Feature`.
Invalid = Literal["skip", "error", "fill"]

#: Milliseconds in one unit of a raw timestamp column; records always hold milliseconds since the
#: epoch (UTC).
TIMESTAMP_UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}

#: Milliseconds in a day.
DAY_MS = 86_400_000

#: History features of a key.
HISTORY_VALUES = ("rate", "count", "recency")


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
        embedding_width: ``None`` gives a one-hot vector; a number gives an embedding of that width
            in the blocks.
        separator: Splits a string into several values (a multi-valued feature); ``None`` for
            single-valued ones.
        table: Name of the joined feature table that holds the column; ``None`` for the
            interactions.
        on_invalid: What to do with a missing, NaN, infinite or unparsable value. ``"fill"`` puts
            ``fill_value`` in its place, ``"skip"`` leaves the row out and counts it, ``"error"``
            stops the run.
        fill_value: Replacement for ``on_invalid="fill"``; ``None`` means ``0.0`` for numbers and
            ``""`` for strings.

    Raises:
        SchemaError: The settings contradict each other, or are out of range.
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
        self._check_values()

    def _check_values(self) -> None:
        """Checks the values that depend on the encoding and the dtype."""
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
        filled = self.dtype == "int64" and self.fill_value is not None
        if filled and not float(self.fill_value or 0).is_integer():
            raise SchemaError(
                f"feature {self.name!r}: fill_value must be a whole number for dtype int64, "
                f"received {self.fill_value!r}"
            )

    @property
    def categorical(self) -> bool:
        """Whether values are tokens rather than numbers."""
        return self.encoding in ("vocabulary", "hash")

    @property
    def default_value(self) -> float | int | str:
        """The value that replaces an invalid one under ``on_invalid="fill"``."""
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
        on_invalid: What to do with an invalid label: ``"skip"`` leaves the row out and counts it,
            ``"error"`` stops the run.

    Raises:
        SchemaError: `minimum` is not below `maximum`.
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
    """Point-in-time history features on one key, as in a feature store.

    For key columns ``(user_id, tab)`` there are up to three numeric features of role ``other``,
    named ``history_user_id_tab_rate`` (smoothed mean label), ``..._count`` and ``..._recency``
    (days since the last row; ``-1`` without one). Each row sees only rows with a strictly earlier
    timestamp; evaluation rows see values frozen at the start of their split.

    Attributes:
        keys: Columns that the statistics are grouped by.
        smoothing: Number of pseudo-rows with the overall mean label that are added to the rate.
        encoding: Encoding of the features: ``"numeric"`` or ``"quantiles"``.
        per_token: Whether each token of a multi-valued key has its own history. The features of a
            row are then the means over its tokens. Otherwise the whole string is one key.
        values: Which of ``rate``, ``count`` and ``recency`` to compute; all of them by default.

    Raises:
        SchemaError: There are no `keys`, `smoothing` is negative, or a value is unknown.
    """

    keys: tuple[str, ...]
    smoothing: float = 10.0
    encoding: Literal["numeric", "quantiles"] = "numeric"
    per_token: bool = False
    values: tuple[str, ...] = HISTORY_VALUES

    def __post_init__(self) -> None:
        subject = f"history on {list(names(self.keys, 'history: keys'))}"
        check_types(self, subject)
        if not self.keys or len(set(self.keys)) < len(self.keys):
            raise SchemaError(f"{subject}: keys needs at least one column, without duplicates")
        if self.smoothing < 0:
            raise SchemaError(
                f"{subject}: smoothing must not be negative, received {self.smoothing}"
            )
        if not self.values or set(self.values) - set(HISTORY_VALUES):
            raise SchemaError(
                f"{subject}: values must be some of {list(HISTORY_VALUES)}, received "
                f"{list(self.values)}"
            )

    def names(self) -> dict[str, str]:
        """Maps each of `values` to the name of its feature, in the order of `HISTORY_VALUES`."""
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
