"""The known values of categorical features, and how these are looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.categories import IntegerTable
from tfrec_limaml.tasks.statistics import Statistics

#: Keras' own tokens for unknown values.
_RESERVED: Mapping[str, Any] = {"string": "[UNK]", "int64": -1}


class Vocabularies:
    """The vocabularies of a schema's features.

    Args:
        schema: The columns.
        statistics: Holds the vocabularies.
        drop_reserved: See `FeatureEncoder`.
    """

    def __init__(self, schema: Schema, statistics: Statistics, drop_reserved: bool) -> None:
        self._schema, self._statistics = schema, statistics
        self._drop_reserved = drop_reserved

    def tokens(self, feature: Feature) -> list[Any]:
        """The known values of a vocabulary feature, in the order of their ids from 1 on."""
        tokens = self._statistics.of(feature)["vocabulary"]
        if self._drop_reserved:
            tokens = [token for token in tokens if token != _RESERVED[feature.dtype]]
        return list(tokens[: feature.max_vocabulary])

    def counts(self, feature: Feature) -> list[int] | None:
        """Training rows of each id of a vocabulary feature, 0 for unknown values.

        None for other features, and without counts in the statistics.
        """
        if feature.encoding != "vocabulary":
            return None
        entry = self._statistics.of(feature)
        if "counts" not in entry:
            return None
        by_token = dict(zip(entry["vocabulary"], entry["counts"], strict=True))
        return [0, *(int(by_token[token]) for token in self.tokens(feature))]

    def integer_table(self) -> IntegerTable | None:
        """The vocabularies of integer features, except those with tokens too large for its keys."""
        features = [
            f
            for f in self._schema.all_features
            if f.encoding == "vocabulary" and f.dtype == "int64"
        ]
        largest = IntegerTable.largest(max(len(features), 1))
        vocabularies = {f.name: self._nonempty(f) for f in features}
        small_vocabularies = {
            name: tokens
            for name, tokens in vocabularies.items()
            if all(abs(int(token)) <= largest for token in tokens)
        }
        return IntegerTable(small_vocabularies) if small_vocabularies else None

    def lookup(self, feature: Feature, name: str) -> keras.layers.Layer:
        """The layer of that name that maps a feature's values to ids, 0 for unknown values."""
        if feature.encoding == "hash":
            return keras.layers.Hashing(feature.buckets, name=name)
        tokens = self._nonempty(feature)
        known, unknown = set(tokens), _RESERVED[feature.dtype]
        while unknown in known:
            unknown = f"[{unknown}]" if isinstance(unknown, str) else unknown - 1
        kind = (
            keras.layers.StringLookup if feature.dtype == "string" else keras.layers.IntegerLookup
        )
        return kind(vocabulary=tokens, num_oov_indices=1, oov_token=unknown, name=name)

    def _nonempty(self, feature: Feature) -> list[Any]:
        vocabulary = self.tokens(feature)
        if not vocabulary:
            raise SchemaError(
                f"the statistics hold an empty vocabulary for feature {feature.name!r}; leave the "
                "feature out, or use encoding 'hash'"
            )
        return vocabulary
