"""The vocabularies of all integer features in one hash table: one look-up for many features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf


class IntegerTable(tf.Module):
    """The vocabularies of several features.

    A token's key is ``token * features + number of the feature``: distinct for all tokens up to
    `largest`.

    Args:
        vocabularies: Tokens of each feature, by name; each at most `largest` in magnitude.
    """

    def __init__(self, vocabularies: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.names = tuple(vocabularies)
        count = len(self.names)
        keys = [
            np.asarray(tokens, np.int64) * count + number
            for number, tokens in enumerate(vocabularies.values())
        ]
        ids = [np.arange(1, len(tokens) + 1) for tokens in vocabularies.values()]
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(np.concatenate(keys), tf.int64),
                tf.constant(np.concatenate(ids), tf.int64),
            ),
            default_value=0,
        )

    @staticmethod
    def largest(features: int) -> int:
        """Largest magnitude that a token may have in a table of this many features."""
        return 2**62 // features - 1

    def ids(self, names: Sequence[str], values: tf.Tensor) -> tf.Tensor:
        """Ids ``[N, F]`` from 1 on, 0 for unknown values.

        Args:
            names: The features.
            values: Raw values of the features ``[N, F]``, int64.
        """
        count = len(self.names)
        numbers = np.array([self.names.index(name) for name in names], np.int64)
        beyond = self.largest(count) + 1
        return self.table.lookup(tf.clip_by_value(values, -beyond, beyond) * count + numbers)


def multi_hot(ids: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """One-hot vectors of several features, concatenated: float32 ``[N, sum of sizes]``.

    Args:
        ids: Ids ``[N, F]``, int64.
        sizes: Number of ids of each feature.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    return tf.raw_ops.DenseBincount(
        input=ids + starts,
        size=tf.constant(sum(sizes), tf.int64),
        weights=tf.zeros([0], tf.float32),
        binary_output=True,
    )
