"""Encodes raw columns inside the graph, so that training, Beam and serving cannot differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.features import META, OTHER, subtask_feature
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.categories import multi_hot
from tfrec_limaml.tasks.columns import Columns, Part, concatenate_parts, parts_of
from tfrec_limaml.tasks.numbers import Number, encode_numbers
from tfrec_limaml.tasks.quantile_statistics import encoded_width
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.tasks.vocabularies import Vocabularies

DTYPES = {"string": tf.string, "int64": tf.int64, "float32": tf.float32}


@keras.saving.register_keras_serializable("tfrec_limaml")
class FeatureEncoder(keras.layers.Layer):
    """Encodes rows by their schema, with statistics of the training data.

    Numeric features are normalised; categorical ones become one-hot (multi-hot) vectors, or ids if
    the schema declares an embedding. All dense vectors of one role are concatenated in the schema's
    order.

    Examples:
        >>> encoder = FeatureEncoder(schema, Statistics.load("tasks/user/statistics.json"))
        >>> features = encoder({"age": tf.constant([41.0]), "item_id": tf.constant(["a"])})

    Args:
        schema: The columns (a `Schema` or its dictionary).
        statistics: Means, variances and vocabularies (a `Statistics` or its dictionary).
        task: The records' task definition; the schema's first by default.
        nested: Task definitions that refine it, for a `NestedMetaBlocks`.
        drop_reserved: Whether the values that Keras reserves, ``"[UNK]"`` and ``-1``, count as
            unknown. Models that were saved without this argument need True.

    Input: a dictionary of raw columns ``[N]`` (``[N, width]`` for vectors) of the schema's dtypes.

    Output: a dictionary with the dense vectors ``"meta"`` (float32 ``[N, F_m]``) and ``"other"``
    (float32 ``[N, F_o]``); one entry per embedded feature (int32 ids ``[N]``, or a float32
    multi-hot vector ``[N, V]`` for a multi-valued one); and one entry per nested definition (int64
    ``[N]``, see `tfrec_limaml.features.subtask_feature`).
    """

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        statistics: Statistics | Mapping[str, Any],
        task: str | None = None,
        nested: Sequence[str] = (),
        drop_reserved: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.supports_jit = False  # XLA cannot compile look-ups
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.statistics = (
            statistics if isinstance(statistics, Statistics) else Statistics(**statistics)
        )
        self.task = task
        self.nested = tuple(nested)
        self.drop_reserved = drop_reserved
        self._further_columns = {
            name: self.schema.further_columns(task, name) for name in self.nested
        }
        self._vocabularies = Vocabularies(self.schema, self.statistics, drop_reserved)
        self._integers = self._vocabularies.integer_table()
        table_names = self._integers.names if self._integers else ()
        # Numbered: a column's name need not be a valid layer name.
        self._lookups = {
            f.name: self._vocabularies.lookup(f, f"lookup_{i}")
            for i, f in enumerate(self.schema.all_features)
            if f.categorical and f.name not in table_names
        }
        self.built = True

    def call(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The encoded features; see the class.

        Raises:
            SchemaError: A column is missing.
        """
        missing = [f.name for f in self.schema.all_features if f.name not in columns]
        if missing:
            raise SchemaError(
                f"the input lacks the columns {missing} of schema {self.schema.name!r}; received "
                f"{sorted(columns)}"
            )
        raw_columns = Columns(columns)
        # Role by role: a role with one column then needs no concatenation.
        encoded = {**self.encode_role(META, raw_columns), **self.encode_role(OTHER, raw_columns)}
        for name in self.nested:
            encoded[subtask_feature(name)] = tf.strings.to_hash_bucket_fast(
                self.further_key(name, columns), 2**62
            )
        return encoded

    def encode_role(self, role: str, columns: Columns) -> dict[str, tf.Tensor]:
        """The output for the features of one role, ``"meta"`` or ``"other"``.

        Columns of other features are not needed, and may have other numbers of rows.
        """
        features = [f for f in self.schema.all_features if f.role == role]
        dense = encode_numbers([self._number(f) for f in features if not f.categorical], columns)
        encoded: dict[str, tf.Tensor] = {}
        for feature, value in self._encode_categories(features, columns):
            if isinstance(value, Part):
                dense[feature.name] = [value]
            else:
                encoded[feature.name] = value
        parts = [part for f in features for part in dense.get(f.name, ())]
        encoded[role] = concatenate_parts(parts) if parts else tf.zeros((columns.rows, 0))
        return encoded

    def ids(self, feature: Feature, values: tf.Tensor) -> tf.Tensor:
        """Ids ``[N]`` of a categorical feature's single values ``[N]``."""
        if self._integers is not None and feature.name in self._integers.names:
            return self._integers.ids([feature.name], values[:, None])[:, 0]
        return self._lookups[feature.name](values)

    def further_key(self, nested: str, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The part of a nested definition's key after the task's key and ``|``, string ``[N]``."""
        texts = [
            columns[name]
            if columns[name].dtype == tf.string
            else tf.strings.as_string(columns[name])
            for name in self._further_columns[nested]
        ]
        escaped = [
            tf.strings.regex_replace(tf.strings.regex_replace(text, "%", "%25"), r"\|", "%7C")
            for text in texts
        ]
        return tf.strings.join(escaped, "|")

    @property
    def output_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the output, for building blocks without data."""
        widths = {META: 0, OTHER: 0}
        shapes: dict[str, tuple[int | None, ...]] = {}
        for feature in self.schema.all_features:
            if feature.embedding_width is None:
                widths[feature.role] += self.size(feature)
            else:
                shapes[feature.name] = (
                    (None,) if feature.separator is None else (None, self.size(feature))
                )
        shapes.update({subtask_feature(name): (None,) for name in self.nested})
        return {**shapes, META: (None, widths[META]), OTHER: (None, widths[OTHER])}

    def slices(self, role: str) -> dict[str, slice]:
        """The columns of each feature in the dense vector of a role, ``"meta"`` or ``"other"``.

        Features with an embedding are not part of it.
        """
        slices, start = {}, 0
        for feature in self.schema.all_features:
            if feature.role == role and feature.embedding_width is None:
                slices[feature.name] = slice(start, start + self.size(feature))
                start += self.size(feature)
        return slices

    def size(self, feature: Feature) -> int:
        """Width of a dense feature; number of ids of a categorical one, unknown values included."""
        if feature.encoding == "numeric":
            return feature.width
        if feature.encoding == "quantiles":
            return encoded_width(self.statistics.of(feature))
        if feature.encoding == "hash":
            return feature.buckets
        return len(self._vocabularies.tokens(feature)) + 1

    def counts(self, feature: Feature) -> list[int] | None:
        """Training rows of each id of a vocabulary feature, 0 for unknown values.

        None for other features, and without counts in the statistics.
        """
        return self._vocabularies.counts(feature)

    def embeddings(self, role: str | None = None) -> dict[str, tuple[int, int]]:
        """Embedded features as ``{name: (number of ids, width)}``, for the blocks' `embeddings`."""
        features = (
            f
            for f in self.schema.all_features
            if f.embedding_width is not None and role in (None, f.role)
        )
        return {f.name: (self.size(f), int(f.embedding_width or 0)) for f in features}

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, schema and statistics as dictionaries."""
        statistics = {
            name: getattr(self.statistics, name)
            for name in ("rows", "label_mean", "window", "features", "quality")
        }
        config = {
            "schema": self.schema.to_dict(),
            "statistics": statistics,
            "task": self.task,
            "nested": self.nested,
            "drop_reserved": self.drop_reserved,
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FeatureEncoder:
        """Inverse of `get_config`."""
        return cls(**{"drop_reserved": True, **config})

    def _encode_categories(
        self, features: Sequence[Feature], columns: Columns
    ) -> Iterator[tuple[Feature, tf.Tensor | Part]]:
        """Ids or multi-hot vectors of embedded features, and the parts of dense ones."""
        for feature in features:
            if feature.categorical and feature.separator is not None:
                hot = self._multi_hot(feature, columns[feature.name])
                embedded = feature.embedding_width is not None
                yield feature, hot if embedded else Part(hot, 0, self.size(feature))
        ids = self._single_ids(features, columns)
        dense = [f for f in features if f.name in ids and f.embedding_width is None]
        if dense:
            sizes = [self.size(f) for f in dense]
            hot = multi_hot(tf.stack([ids[f.name] for f in dense], -1), sizes)
            for feature, part in zip(dense, parts_of(hot, sizes), strict=True):
                yield feature, part
        for feature in features:
            if feature.name in ids and feature.embedding_width is not None:
                yield feature, tf.cast(ids[feature.name], tf.int32)

    def _single_ids(self, features: Sequence[Feature], columns: Columns) -> dict[str, tf.Tensor]:
        """Ids ``[N]``, int64, of the categorical features with one value per row, by name."""
        table_names = self._integers.names if self._integers else ()
        names = [f.name for f in features if f.name in table_names]
        ids: dict[str, tf.Tensor] = {}
        if self._integers is not None and names:
            table_ids = self._integers.ids(names, columns.side_by_side(names, tf.int64))
            ids.update(zip(names, tf.unstack(table_ids, axis=-1), strict=True))
        for feature in features:
            if feature.categorical and feature.separator is None and feature.name not in ids:
                token_ids = self._lookups[feature.name](columns[feature.name])
                ids[feature.name] = tf.cast(token_ids, tf.int64)
        return ids

    def _number(self, feature: Feature) -> Number:
        raw = feature.encoding == "numeric" and feature.normalise == "none"
        return Number(feature, {} if raw else self.statistics.of(feature))

    def _multi_hot(self, feature: Feature, value: tf.Tensor) -> tf.Tensor:
        """Multi-hot vectors ``[N, V]`` of a feature with several values per row."""
        size = self.size(feature)
        tokens = tf.raw_ops.StringSplitV2(input=value, sep=feature.separator)
        hot = tf.raw_ops.SparseBincount(
            indices=tokens.indices,
            values=tf.cast(self._lookups[feature.name](tokens.values), tf.int64),
            dense_shape=tokens.shape,
            size=tf.constant(size, tf.int64),
            weights=tf.zeros([0], tf.float32),
            binary_output=True,
        )
        return tf.ensure_shape(hot, (None, size))
